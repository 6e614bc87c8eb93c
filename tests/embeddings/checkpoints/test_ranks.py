"""What several real ranks trained and saved is read by one, and is what one would have trained."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from embeddings import ShardedEmbedding, restore_tables, save_tables, verify_tables
from embeddings.checkpoints.compare import compare_tables
from strategies import create_strategy
from tests.embeddings.checkpoints.rank_program import TABLES, features, trained
from tests.embeddings.checkpoints.worlds import rows_by_id
from tests.embeddings.sharding.groups import run_group
from tests.strategies.horovodrun import horovodrun

PROGRAM = Path(__file__).with_name("rank_program.py")


def _read(folder):
    layer = ShardedEmbedding(features())
    restore_tables(layer, folder)
    return layer


@pytest.fixture(scope="module")
def trained_by_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    save_tables(trained(create_strategy("single")), folder)
    return _read(folder)


@pytest.mark.parametrize(
    ("ranks", "devices"),
    [
        pytest.param(2, None, id="2"),
        pytest.param(3, None, id="3", marks=pytest.mark.long),
        pytest.param(1, 2, id="mirrored", marks=pytest.mark.long),
    ],
)
def test_one_process_reads_what_several_ranks_trained(tmp_path, trained_by_one, ranks, devices):
    run_group(PROGRAM, [str(tmp_path)], ranks, devices)
    assert len(list(tmp_path.glob("rank-*"))) == (devices or ranks)
    verify_tables(tmp_path)
    layer = _read(tmp_path)
    for one, other in zip(trained_by_one.shards(), layer.shards(), strict=True):
        (ids, rows), (same_ids, same_rows) = rows_by_id(one), rows_by_id(other)
        assert np.array_equal(ids, same_ids)
        for wanted, found in zip(
            (one.held.rows, *one.held.slots.values()), (other.held.rows, *other.held.slots.values()), strict=True
        ):
            np.testing.assert_allclose(found.numpy()[same_rows], wanted.numpy()[rows], rtol=1e-5, atol=1e-6)
        assert int(one.held.updates) == int(other.held.updates)
    counts = [{name: int(value) for name, value in each.counts()["open"].items()} for each in (trained_by_one, layer)]
    assert counts[0] == counts[1]
    assert counts[0]["rows"] > 0
    assert len(TABLES) == len(layer.tables)


@pytest.fixture(scope="module")
def trained_by_four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    run_group(PROGRAM, [str(folder)], 4)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_any_number_of_processes_reads_what_four_trained(tmp_path, trained_by_four, ranks):
    run_group(PROGRAM, [str(tmp_path), str(trained_by_four)], ranks)
    _same(tmp_path, trained_by_four, ranks)


@pytest.mark.long
def test_replicas_read_what_processes_trained(tmp_path, trained_by_four):
    run_group(PROGRAM, [str(tmp_path), str(trained_by_four)], 1, 2)
    _same(tmp_path, trained_by_four, 2)


@pytest.mark.long
@pytest.mark.skipif(not importlib.util.find_spec("horovod"), reason="horovod is not built here: make horovod")
def test_horovods_ranks_read_what_processes_trained(tmp_path, trained_by_four):
    horovodrun(2, PROGRAM, tmp_path, trained_by_four)
    _same(tmp_path, trained_by_four, 2)


def _same(folder, trained, ranks):
    assert len(list(folder.glob("rank-*"))) == ranks
    verify_tables(folder)
    found = compare_tables(trained, folder)
    assert len(found) == len(TABLES)
    assert {name: table.unlike for name, table in found.items() if not table.same} == {}
