"""What travels in 16 bits is half the bytes, and trains nearly the same."""

import numpy as np
import pytest

from embeddings import SGD, TableConfig
from embeddings.exchange import Exchange
from embeddings.kernels.group import Bag
from embeddings.sharding.plan import ShardingPlan, TableSharding
from embeddings.sharding.sharded import sharded_tables
from embeddings.wire import Wire
from foundation.tf import tf
from strategies import LocalCommunicator

ROWS, DIM = 50, 8


class _Watched(LocalCommunicator):
    """The only rank, which remembers what it sent itself."""

    def __init__(self):
        self.sent = []

    def all_to_all(self, rows, sizes):
        self.sent.append(rows)
        return super().all_to_all(rows, sizes)


def _trained(wire, kind):
    communicator = _Watched()
    plan = ShardingPlan(1, {"t": TableSharding("t", kind, (0,))})
    tables = sharded_tables({"t": TableConfig("t", ROWS, DIM, SGD(0.1))}, plan, communicator)
    exchange, rng = Exchange(communicator, tables, wire), np.random.default_rng(0)
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
    outputs, rows, sent = _trained(None, kind)
    near, near_rows, less = _trained(Wire(precision, precision), kind)
    floats = [payload for payload in sent if payload.dtype == tf.float32]
    narrow = [payload for payload in less if payload.dtype == precision]
    assert [payload.shape for payload in narrow] == [payload.shape for payload in floats]
    assert len(narrow) == 6, "vectors and gradients of three steps"
    assert np.allclose(rows, near_rows, atol=2.0**-7)
    assert not np.array_equal(rows, near_rows)
    assert all(np.allclose(mine, theirs, atol=2.0**-7) for mine, theirs in zip(outputs, near, strict=True))


def test_a_repeated_run_draws_the_same():
    (_, first, _), (_, second, _) = (_trained(Wire(gradients="bfloat16"), "row_wise") for _ in range(2))
    assert np.array_equal(first, second)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="wire: gradients are 'int8'; known: float32, bfloat16, float16"):
        Wire(gradients="int8")
