"""Topology files: what is wrong in one is told at once, with the file and the key."""

import dataclasses

import pytest
import yaml

from embeddings.planner import load_topology, ready_topologies, save_topology
from foundation.errors import UserError


@pytest.fixture
def written(tmp_path):
    """Writes the DGX A100's file with some keys changed (None: left out); returns its path."""

    def write(**keys):
        document = yaml.safe_load(ready_topologies()["dgx-a100"].read_text())
        document = {key: value for key, value in {**document, **keys}.items() if value is not None}
        path = tmp_path / "t.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def test_ready_topologies_load_and_say_their_devices():
    ranks = {name: load_topology(name).ranks for name in ready_topologies()}
    assert ranks == {"dgx-a100": 8, "h100-8": 8, "tpu-v5e-pod": 256, "tpu-v5p-pod": 128}
    a100 = load_topology("dgx-a100")
    assert (a100.memory, a100.memory_bandwidth, a100.inter_host.bandwidth) == (80e9, 2039e9, 25e9)


def test_ranks_are_numbered_host_by_host():
    topology = load_topology("dgx-a100").sized(hosts=3)
    assert topology.ranks == 24
    assert [topology.host_of(rank) for rank in (0, 7, 8, 23)] == [0, 0, 1, 2]
    assert topology.ranks_of(1) == tuple(range(8, 16))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"memory_bandwidth": "2039 GB"}, "memory_bandwidth: 'GB' is a unit of size"),
        ({"memory": "80"}, "memory: the unit is missing"),
        ({"memory": 80}, "memory: a size with its unit is wanted"),
        ({"memory": "0 GB"}, "memory: Input should be greater than 0"),
        ({"memory": None}, "memory: this key is missing"),
        ({"memroy": "80 GB"}, "memroy: unknown key; did you mean 'memory'?"),
        ({"hosts": 0}, "hosts: Input should be greater than or equal to 1"),
        ({"hosts": 1.5}, "hosts: Input should be a valid integer"),
        ({"hosts": "two"}, "hosts: Input should be a valid integer"),
        ({"memory_efficiency": 1.2}, "memory_efficiency: Input should be less than or equal to 1"),
        ({"intra_host": {"bandwidth": "300 GB/s", "efficiency": 0.7}}, "intra_host.latency: this key is missing"),
        (
            {"intra_host": {"bandwith": "300 GB/s", "bandwidth": "1 GB/s", "efficiency": 0.7, "latency": "1 us"}},
            "intra_host.bandwith: unknown key; did you mean 'bandwidth'?",
        ),
        ({"inter_host": {"bandwidth": "25 us", "efficiency": 1, "latency": "1 us"}}, "'us' is a unit of time"),
        ({"inter_host": "fast"}, "inter_host: Input should be a valid dictionary"),
        ({"grouping": "3 GB/s"}, "grouping: 'GB/s' is a unit of bandwidth: a rate of ids"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(written, keys, message):
    path = written(**keys)
    with pytest.raises(UserError) as error:
        load_topology(path)
    assert str(path) in error.value.message
    assert message in error.value.message


def test_every_problem_is_told_at_once(written):
    with pytest.raises(UserError, match="3 problems in the topology"):
        load_topology(written(memory=None, flops="1 GB", kernel_lunch="1 us"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1", "a mapping of keys to values; found list"), ("", "found NoneType")],
)
def test_a_file_that_is_no_topology(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_topology(path)


def test_a_file_that_is_no_text_or_cannot_be_read(tmp_path):
    (tmp_path / "t.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        load_topology(tmp_path / "t.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_topology(tmp_path)


def test_a_name_that_is_none_suggests_the_nearest():
    with pytest.raises(UserError, match="no ready topology of that name") as error:
        load_topology("dgx-a10")
    assert "did you mean 'dgx-a100'?" in error.value.remedy


def test_what_is_saved_loads_again(tmp_path):
    rates = {"grouping": 3.21e9, "merging": 4.32e8, "stepping": 5.43e8, "streaming_efficiency": 0.25}
    topology = dataclasses.replace(
        load_topology("tpu-v5p-pod"), **rates, kernels="compiled", measured_on="here", name="mine"
    )
    save_topology(topology, tmp_path / "new" / "t.yaml", "a comment")
    assert (tmp_path / "new" / "t.yaml").read_text().startswith("# a comment\n")
    loaded, saved = (dataclasses.asdict(each) for each in (load_topology(tmp_path / "new" / "t.yaml"), topology))
    for link in ("intra_host", "inter_host"):
        assert loaded.pop(link) == pytest.approx(saved.pop(link))
    for key, value in saved.items():
        # four digits of a quantity
        assert loaded[key] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value), key
