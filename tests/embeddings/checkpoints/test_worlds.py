"""Tables saved by the ranks of one world are read by those of any other."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import (
    Adam,
    FrequencyAdmission,
    LeastRecentlyUsed,
    ProbabilityAdmission,
    TableConfig,
    TimeToLive,
    restore_tables,
    verify_tables,
)
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tf import tf
from tests.embeddings.checkpoints.worlds import (
    OPTIMIZERS,
    fill,
    plans,
    rows_by_id,
    saved_by,
    state_of,
    value_of,
    world,
)

PRECISIONS = ("float32", "bfloat16", "float16")
POLICIES = (
    {},
    {"eviction": TimeToLive(8)},
    {"admission": FrequencyAdmission(2, 1 << 14)},
    {"admission": ProbabilityAdmission(0.7), "capacity": 500, "eviction": LeastRecentlyUsed()},
)


@st.composite
def _tables(draw):
    optimizer = draw(st.sampled_from(OPTIMIZERS))
    narrow = PRECISIONS[:2] if isinstance(optimizer, Adam) else PRECISIONS
    precisions = {"precision": draw(st.sampled_from(PRECISIONS)), "slot_precision": draw(st.sampled_from(narrow))}
    size, dim = draw(st.sampled_from([1, 2, 700, 1_024, 2_500])), draw(st.integers(4, 9))
    policies = draw(st.sampled_from(POLICIES))
    return [
        TableConfig("static/one", size, dim, optimizer, **precisions),
        TableConfig("open", None, dim, optimizer, **precisions, **policies),
    ]


def _ids(seed):
    rng = np.random.default_rng(seed)
    few, wide = rng.integers(0, 3_000, 900), rng.integers(-(2**63), 2**63 - 1, 100)
    return {"open": np.concatenate([few, wide, few[:300], [0, -1]])}


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_the_same_ranks_read_the_same_bits(data):
    tables = data.draw(_tables())
    plan = data.draw(plans(tables))
    layers, others = world(tables, plan), world(tables, plan)
    fill(layers, _ids(1))
    with saved_by(layers) as folder:
        verify_tables(folder)
        for layer, other in zip(layers, others, strict=True):
            restore_tables(other, folder)
            for one, two in zip(layer.shards(), other.shards(), strict=True):
                assert state_of(one) == state_of(two)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_other_ranks_read_the_same_values_by_id(data):
    tables = data.draw(_tables())
    one_plan, other_plan = data.draw(plans(tables)), data.draw(plans(tables))
    saved, read = world(tables, one_plan), world(tables, other_plan)
    ids = _ids(2)
    fill(saved, ids)
    with saved_by(saved) as folder:
        for layer in read:
            fill([layer], {"open": np.array([5, 10**9])})  # what was there before is gone
            restore_tables(layer, folder)
    for layer in read:
        for shard in layer.shards():
            _check_values(shard)
    _check_dynamic(saved, read)


def _check_values(shard):
    ids, numbers = rows_by_id(shard)
    known = np.ones(len(ids), bool) if shard.but is None or not shard.static else ~np.isin(ids, shard.but)
    for name, variable in {"rows": shard.held.rows, **shard.held.slots}.items():
        columns = np.arange(*shard.columns) if variable.shape.rank == 2 else np.array([-1])
        wanted = tf.cast(value_of(name, ids, columns), variable.dtype).numpy().reshape(-1, *variable.shape[1:])
        assert np.array_equal(tf.gather(variable, numbers).numpy()[known], wanted[known]), name
    assert int(shard.held.updates) == 3


def _merged(layers):
    """By id its frequency and last use; the sums of counts; the sketches of all buckets."""
    entries, counts, counters, steps = {}, np.zeros(4, np.int64), 0, set()
    seen = set()
    for layer in layers:
        for shard in layer.shards():
            if shard.static or shard.columns[0] or (shard.replicated and (shard.part in seen)):
                continue
            if shard.replicated:
                seen.add(shard.part)
            state = shard.held.id_state()
            for entry in zip(*(state[name].tolist() for name in ("ids", "frequencies", "last_seen")), strict=True):
                assert entry[0] not in entries
                entries[entry[0]] = entry[1:]
            counts += state["counts"][1:]
            counters = counters + state["counters"].astype(np.int64)
            steps.add(int(state["counts"][0]))
    return entries, counts.tolist(), np.asarray(counters).tolist(), steps


def _check_dynamic(saved, read):
    assert _merged(saved) == _merged(read)


@settings(deadline=None, max_examples=6)
@given(st.data(), st.sampled_from(PRECISIONS), st.sampled_from(PRECISIONS))
def test_another_precision_reads_the_nearest(data, one, other):
    tables = [TableConfig("static/one", 1_500, 5), TableConfig("open", None, 5)]
    before, after = ([replace(table, precision=p, slot_precision=p) for table in tables] for p in (one, other))
    saved, read = world(before, data.draw(plans(before))), world(after, data.draw(plans(after)))
    fill(saved, _ids(3))
    with saved_by(saved) as folder:
        for layer in read:
            restore_tables(layer, folder)
    for layer in read:
        for shard in layer.shards():
            ids, numbers = rows_by_id(shard)
            asked = ~np.isin(ids, [] if shard.but is None else shard.but)
            wanted = tf.cast(tf.cast(value_of("rows", ids[asked], np.arange(*shard.columns)), one), other)
            assert np.array_equal(tf.gather(shard.held.rows, numbers[asked]), wanted)


def _everyone(tables, kind, ranks, **options):
    shardings = {}
    for table in tables:
        columns = tuple(len(c) for c in np.array_split(np.arange(table.dim), ranks)) if kind == "column_wise" else ()
        shardings[table.name] = TableSharding(table.name, kind, tuple(range(ranks)), columns, **options)
    return ShardingPlan(ranks, shardings)


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.long), "bfloat16"])
@pytest.mark.parametrize("kind", ["row_wise", "column_wise", "hot_cold"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_four_ranks_by_rows_are_read_by_any_others(ranks, kind, precision):
    tables = [TableConfig("static/one", 2_500, 8, Adam(0.1)), TableConfig("open", None, 8, Adam(0.1))]
    saved = world(tables, _everyone(tables, "row_wise", 4))
    fill(saved, _ids(5))
    after = [replace(table, precision=precision) for table in tables]
    hot = {"hot_rows": 3, "hot_ids": (0, 5, 2_000)} if kind == "hot_cold" else {}
    read = world(after, _everyone(after, kind, ranks, **hot))
    with saved_by(saved) as folder:
        for layer in read:
            restore_tables(layer, folder)
    for layer in read:
        for shard in layer.shards():
            _check_values(shard)
    _check_dynamic(saved, read)
