"""What several real ranks trained and saved is read by one, and is what one would have trained."""

from pathlib import Path

import numpy as np
import pytest

from embeddings import ShardedEmbedding, restore_tables, verify_tables
from tests.embeddings.checkpoints.rank_program import TABLES, features
from tests.embeddings.checkpoints.worlds import rows_by_id
from tests.embeddings.sharding.groups import run_group

PROGRAM = Path(__file__).with_name("rank_program.py")


def _read(folder):
    layer = ShardedEmbedding(features())
    restore_tables(layer, folder)
    return layer


@pytest.fixture(scope="module")
def trained_by_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run_group(PROGRAM, [str(folder)], 1)
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
