"""What travels in 16 bits is half the bytes, and trains nearly the same."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embeddings import SGD, TableConfig
from embeddings.exchange import Exchange
from embeddings.kernels.group import Bag
from embeddings.sharding.plan import ShardingPlan, TableSharding
from embeddings.sharding.sharded import sharded_tables
from embeddings.wire import Wire
from foundation.tf import tf

ROWS, DIM = 50, 8


class _Rank:
    """One of two ranks that are threads of this process; it remembers what left it."""

    size = 2

    def __init__(self, rank, posted, barrier):
        self.rank, self.sent = rank, []
        self._posted, self._barrier = posted, barrier

    def all_gather(self, value):
        return tf.concat(self._exchanged(value), 0)

    def all_to_all(self, rows, sizes):
        parts = tf.split(rows, sizes[self.rank], num=2)
        self.sent.append(parts[1 - self.rank])
        return tf.concat([theirs[self.rank] for theirs in self._exchanged(parts)], 0)

    def _exchanged(self, value):
        self._posted[self.rank] = value
        self._barrier.wait(60)
        found = list(self._posted)
        self._barrier.wait(60)  # both have read it
        return found


def _trained(wire, kind):
    """What the two ranks looked up in three steps, the rows that each then holds, and what it sent."""
    posted, barrier = [None, None], threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        ranks = [_Rank(rank, posted, barrier) for rank in range(2)]
        return list(pool.map(lambda rank: _of_rank(rank, wire, kind), ranks))


def _of_rank(communicator, wire, kind):
    plan = ShardingPlan(2, {"t": TableSharding("t", kind, (0, 1))})
    tables = sharded_tables({"t": TableConfig("t", ROWS, DIM, SGD(0.1))}, plan, communicator)
    exchange, rng = Exchange(communicator, tables, wire), np.random.default_rng(communicator.rank)
    outputs = []
    for _ in range(3):
        ids = tf.constant(rng.integers(0, ROWS, 40), tf.int64)
        bags = [Bag("f", 0, ids, tf.range(11, dtype=tf.int64) * 4, None, "mean")]
        routed = exchange.input_dist(bags, True)
        outputs.append(exchange.output_dist(routed, bags)[0].numpy())
        exchange.update(routed, bags, [tf.constant(rng.normal(size=(10, DIM)), tf.float32)])
    return outputs, tables[0].parts[0].held.rows.numpy(), communicator.sent


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["row_wise", "data_parallel"])
def test_sixteen_bits_are_half_the_bytes_and_nearly_the_same(precision, kind):
    exact, rounded = _trained(None, kind), _trained(Wire(precision, precision), kind)
    for (outputs, rows, sent), (near, near_rows, less) in zip(exact, rounded, strict=True):
        floats = [payload for payload in sent if payload.dtype == tf.float32]
        narrow = [payload for payload in less if payload.dtype == precision]
        assert [payload.shape for payload in narrow] == [payload.shape for payload in floats]
        assert len(narrow) == 6, "vectors and gradients of three steps"
        assert np.allclose(rows, near_rows, atol=2.0**-7)
        assert not np.array_equal(rows, near_rows)
        assert all(np.allclose(mine, theirs, atol=2.0**-7) for mine, theirs in zip(outputs, near, strict=True))
    if kind == "data_parallel":
        assert np.array_equal(rounded[0][1], rounded[1][1]), "copies stay copies"


def test_a_repeated_run_draws_the_same():
    first, second = (_trained(Wire(gradients="bfloat16"), "row_wise") for _ in range(2))
    assert all(np.array_equal(mine[1], theirs[1]) for mine, theirs in zip(first, second, strict=True))


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="wire: gradients are 'int8'; known: float32, bfloat16, float16"):
        Wire(gradients="int8")
