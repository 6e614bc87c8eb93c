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


def _on_both(work):
    """What `work` gives for each rank's communicator."""
    posted, barrier = [None, None], threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, [_Rank(rank, posted, barrier) for rank in range(2)]))


def _trained(wire, kind):
    """What the two ranks looked up in three steps, the rows that each then holds, and what it sent."""
    return _on_both(lambda communicator: _of_rank(communicator, wire, kind))


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


@pytest.mark.parametrize("kind", ["data_parallel", "hot_cold"])
def test_with_error_feedback_a_copys_gradients_lose_one_rounding_in_all(kind):
    """Rounding each to the nearest would lose sixty times as much."""
    steps, gradient = 63, 1 + 2.0**-9  # in bfloat16: 1
    plain, fed = (_constant(wire, kind, steps, gradient) for wire in (None, Wire("float32", "bfloat16", True)))
    for (wanted, _), (rows, others) in zip(plain, fed, strict=True):
        unit = 2.0**-7 * 2  # the largest that is added, by two ranks
        assert np.abs(rows - wanted).max() <= unit
        assert not np.array_equal(rows, wanted)
        assert np.array_equal(rows, fed[0][0]), "copies stay copies"
        assert others is None or np.abs(others).max() > 0


def _constant(wire, kind, steps, gradient):
    """Of each rank, the rows of the part that both hold, and of its own part, after steps of one gradient for all."""
    hot = (3, 7, 11)
    sharding = (
        TableSharding("t", kind, (0, 1), (), len(hot), hot) if kind == "hot_cold" else TableSharding("t", kind, (0, 1))
    )

    def of_rank(communicator):
        tables = sharded_tables(
            {"t": TableConfig("t", ROWS, DIM, SGD(1.0), initializer_scale=0.0)},
            ShardingPlan(2, {"t": sharding}),
            communicator,
        )
        exchange = Exchange(communicator, tables, wire)
        bags = [Bag("f", 0, tf.constant([3, 7, 8, 9, 11], tf.int64), None, None, None)]
        for _ in range(steps):
            routed = exchange.input_dist(bags, True)
            exchange.output_dist(routed, bags)
            exchange.update(routed, bags, [tf.fill([5, DIM], gradient)])
        rows = {part.replicated: part.held.rows.numpy() for part in tables[0].parts if part.held is not None}
        return rows[True], rows.get(False)

    return _on_both(of_rank)


def test_error_feedback_without_rounding_is_refused():
    with pytest.raises(ValueError, match="error feedback is of gradients in 16 bits"):
        Wire(error_feedback=True)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="wire: gradients are 'int8'; known: float32, bfloat16, float16"):
        Wire(gradients="int8")
