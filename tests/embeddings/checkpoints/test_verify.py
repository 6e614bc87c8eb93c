"""Every damaged file is named, not only the first."""

import shutil

import numpy as np
import pytest

from embeddings import TableConfig, save_tables
from embeddings.checkpoints.verify import damages, size_of
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from tests.embeddings.checkpoints.worlds import fill, world

TABLES = [TableConfig("a", 3_000, 4), TableConfig("open", None, 4)]
PLAN = ShardingPlan(2, {table.name: TableSharding(table.name, "row_wise", (0, 1)) for table in TABLES})


@pytest.fixture
def saved(tmp_path):
    layers = world(TABLES, PLAN)
    fill(layers, {"open": np.arange(500)})
    for layer in layers:
        save_tables(layer, tmp_path / "saved")
    return tmp_path / "saved"


def test_what_is_whole_is_read_to_the_end(saved):
    read = []
    assert damages(saved, read.append) == {}
    assert 0 < sum(read) <= size_of(saved) * 2


def test_a_flipped_bit_in_every_file_is_told_of_every_file(saved):
    rng = np.random.default_rng(0)
    files = [path for path in saved.rglob("*") if path.is_file() and path.name not in ("manifest.json", "zarr.json")]
    for path in files:
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
    found = damages(saved)
    assert set(found) == set(files)
    assert all(str(path) in message for path, message in found.items())


def test_missing_truncated_and_changed_files_are_named_together(saved):
    arrays = sorted(path for path in saved.rglob("*") if path.is_file() and "c" in path.relative_to(saved).parts)
    metadata = sorted(saved.rglob("zarr.json"))
    arrays[0].unlink()
    arrays[1].write_bytes(arrays[1].read_bytes()[:-1])
    metadata[-1].write_text(metadata[-1].read_text().replace("0", "1", 1))
    found = damages(saved)
    assert set(found) == {arrays[0], arrays[1], metadata[-1]}
    assert "missing" in found[arrays[0]]
    assert "bytes long instead of" in found[arrays[1]]
    assert "its digest is another" in found[metadata[-1]]


def test_manifests_and_ranks(saved):
    shutil.rmtree(saved / "rank-00001")
    assert list(damages(saved)) == [saved / "rank-00001"]
    (saved / "rank-00000" / "manifest.json").write_text("{")
    assert list(damages(saved)) == [saved / "rank-00000" / "manifest.json"]
    with pytest.raises(UserError, match="there are no tables here"):
        damages(saved / "nowhere")
