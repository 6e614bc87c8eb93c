"""What an exchange moved, counted by hand."""

import numpy as np
import pytest

from embeddings import SGD, TableConfig, Wire
from embeddings.kernels.group import Bag
from embeddings.sharding import TableSharding
from embeddings.sharding.sharded import ShardedTable
from embeddings.traffic import Traffic
from foundation.tf import tf


def _bag(table, count):
    return Bag("f", table, tf.zeros([count], tf.int64), None, None, None)


@pytest.fixture
def tables():
    spread = TableConfig("spread", 5_000, 8, SGD(0.1))
    copied = TableConfig("copied", 50, 4, SGD(0.1))
    return [
        ShardedTable(spread, TableSharding("spread", "row_wise", (0, 1)), 0),
        ShardedTable(copied, TableSharding("copied", "data_parallel", (0, 1)), 0),
    ]


def test_a_steps_traffic_is_what_left_the_rank(tables):
    traffic = Traffic(tables, 0, 2, Wire("bfloat16", "float32"))
    # [from, part, to]: of "spread" rank 0 asks 1 for 3 vectors and itself for 2; of "copied" 5 to each
    sizes = np.array([[[2, 3], [5, 5]], [[4, 1], [6, 6]]])
    id_sizes = sizes + np.array([[[1, 4], [0, 0]], [[0, 2], [0, 0]]])  # some are asked for together
    traffic.note([_bag(0, 6), _bag(1, 10), _bag(0, 4)], tf.constant(id_sizes), tf.constant(sizes))
    assert traffic.read() == pytest.approx(
        {
            "bytes/ids": (7 + 5) * 8,
            "bytes/vectors": 4 * 8 * 2,  # what rank 1 asked of rank 0; copies do not travel
            "bytes/gradients": (3 * 8 + 5 * 4) * 4,
            "distinct/spread": (2 + 3) / 10,
            "load/spread": 10 / 8.5,
            "distinct/copied": 5 / 10,  # the same five to each
        }
    )


def test_tables_that_a_step_does_not_ask_for_move_nothing(tables):
    traffic = Traffic(tables, 0, 2, Wire())
    sizes = tf.constant([[[2, 3]], [[4, 1]]], tf.int64)
    traffic.note([_bag(0, 10)], sizes, sizes)
    found = traffic.read()
    assert found["bytes/ids"] == 3 * 8
    assert not any("copied" in name for name in found)
