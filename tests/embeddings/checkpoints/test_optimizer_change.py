"""Tables restored under another optimizer: rows by id, slot variables converted or begun anew."""

import numpy as np
import pytest

from embeddings import FTRL, SGD, Adagrad, Adam, RowWiseAdagrad, TableConfig, restore_tables, save_tables
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tf import tf
from tests.embeddings.checkpoints.worlds import OPTIMIZERS, alone, fill, rows_by_id, value_of, world

IDS = np.arange(0, 900, 3)
PLAN = ShardingPlan(
    2,
    {
        "one": TableSharding("one", "column_wise", (0, 1), (3, 5)),
        "open": TableSharding("open", "row_wise", (1, 0)),
    },
)


def _tables(optimizer):
    return [TableConfig("one", 1_500, 8, optimizer), TableConfig("open", None, 8, optimizer)]


def _positive(layers):
    """Accumulators are sums of squares."""
    for layer in layers:
        for shard in layer.shards():
            if "accumulator" in shard.held.slots:
                variable = shard.held.slots["accumulator"]
                variable.scatter_update(
                    tf.IndexedSlices(tf.abs(variable) + 0.1, tf.range(tf.shape(variable, tf.int64)[0]))
                )


@pytest.mark.parametrize("before", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize("now", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_rows_come_along(tmp_path, capfd, before, now):
    saved, read = world(_tables(before), PLAN), world(_tables(now), PLAN)
    fill(saved, {"open": IDS})
    fill(read, {"open": np.array([5])})  # which is gone after that
    _positive(saved)
    for layer in saved:
        save_tables(layer, tmp_path)
    for layer in read:
        restore_tables(layer, tmp_path)
    said = capfd.readouterr().err
    same = type(before) is type(now)
    expected = f"saved under {type(before).__name__}, restored under {type(now).__name__}: rows come along"
    assert said.count(f"table 'one': {expected}") == (0 if same else 2)  # once a rank, of which the first alone speaks
    for layer in read:
        for shard in layer.shards():
            ids, numbers = rows_by_id(shard)
            columns = np.arange(*shard.columns)
            row = value_of("rows", ids, columns)
            assert np.array_equal(tf.gather(shard.held.rows, numbers), row)
            slots = {name: tf.gather(variable, numbers).numpy() for name, variable in shard.held.slots.items()}
            assert int(shard.held.updates) == (3 if same or not isinstance(now, Adam) else 0)
            if not same:
                _check_slots(before, now, ids, columns, row, slots)


def _check_slots(before, now, ids, columns, row, slots):
    sums = np.abs(value_of("accumulator", ids, np.arange(8))) + np.float32(0.1)
    of_rows = np.abs(value_of("accumulator", ids, np.array([-1])))[:, 0] + np.float32(0.1)
    if "accumulator" in slots:
        if isinstance(before, Adagrad | FTRL):
            wanted = sums.mean(1) if isinstance(now, RowWiseAdagrad) else sums[:, columns]
        elif isinstance(before, RowWiseAdagrad):
            wanted = np.repeat(of_rows[:, np.newaxis], len(columns), 1)
        else:
            wanted = np.full(slots["accumulator"].shape, 0.1, np.float32)
        np.testing.assert_allclose(slots["accumulator"], wanted, rtol=1e-6)
    if isinstance(now, Adam):
        assert not slots["momentum"].any()
        assert not slots["velocity"].any()
    if isinstance(now, FTRL):  # a step without a gradient leaves the row as it is
        state = {name: tf.constant(values) for name, values in slots.items()}
        stepped, _ = now.step(tf.constant(row), state, tf.zeros_like(row), now.numbers(tf.constant(3, tf.int64)))
        np.testing.assert_allclose(stepped, row, rtol=1e-5, atol=1e-7)


def test_ftrl_with_penalties_keeps_rows(tmp_path):
    now = FTRL(0.05, l1=0.01, l2=0.1, beta=1.0)
    layer, other = alone(_tables(SGD(0.1))), alone(_tables(now))
    fill([layer], {"open": IDS})
    save_tables(layer, tmp_path)
    restore_tables(other, tmp_path)
    table = other.held("one")
    slots = {name: variable.value() for name, variable in table.slots.items()}
    stepped, _ = now.step(table.rows.value(), slots, tf.zeros([1_500, 8]), now.numbers(tf.constant(0, tf.int64)))
    np.testing.assert_allclose(stepped, table.rows, rtol=1e-5, atol=1e-7)
