"""A checkpoint laid anew is what the other ranks would have read anyway."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import SGD, Adam, FrequencyAdmission, TableConfig, restore_tables, save_tables, verify_tables
from embeddings.checkpoints.compare import compare_tables
from embeddings.checkpoints.reshard import reshard_tables
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from foundation.tf import tf
from tests.embeddings.checkpoints.worlds import OPTIMIZERS, alone, fill, plans, saved_by, state_of, world

POLICIES = ({}, {"admission": FrequencyAdmission(2, 1 << 14)}, {"admission": FrequencyAdmission(2), "capacity": 500})


def _ids(seed):
    rng = np.random.default_rng(seed)
    return {"open": np.concatenate([rng.integers(0, 2_000, 900), rng.integers(-(2**63), 2**63 - 1, 50), [0, -1]])}


def _asked_for(shard):
    """A shard without the values of hot ids in the cold part, which nobody reads."""
    if shard.static and shard.but is not None:
        ids = shard.but[np.isin(shard.but % 1_024, shard.buckets)]
        for variable in (shard.held.rows, *shard.held.slots.values()):
            zeros = tf.zeros([len(ids), *variable.shape[1:]], variable.dtype)
            variable.scatter_update(tf.IndexedSlices(zeros, tf.constant(shard.rows_of(ids))))
    return shard


@settings(deadline=None, max_examples=8)
@given(st.data())
def test_the_other_ranks_read_the_same_bits(tmp_path_factory, data):
    optimizer, policy = data.draw(st.sampled_from(OPTIMIZERS)), data.draw(st.sampled_from(POLICIES))
    precision = data.draw(st.sampled_from(["float32", "bfloat16"]))
    size, dim = data.draw(st.sampled_from([1, 700, 2_500])), data.draw(st.integers(4, 9))
    tables = [
        TableConfig("static/one", size, dim, optimizer, precision=precision),
        TableConfig("open", None, dim, optimizer, slot_precision=precision, **policy),
    ]
    plan, other = data.draw(plans(tables)), data.draw(plans(tables))
    saved, read, anew = world(tables, plan), world(tables, other), world(tables, other)
    fill(saved, _ids(1))
    out = tmp_path_factory.mktemp("resharded")
    with saved_by(saved) as folder:
        reshard_tables(folder, out, other)
        verify_tables(out)
        assert all(difference.same for difference in compare_tables(folder, out).values())
        for layer, twin in zip(read, anew, strict=True):
            restore_tables(layer, folder)
            restore_tables(twin, out)
            for one, two in zip(layer.shards(), twin.shards(), strict=True):
                assert state_of(_asked_for(one)) == state_of(_asked_for(two))
    assert len(list(out.glob("rank-*"))) == other.ranks


def test_it_lies_as_ranks_of_the_plan_write_it(tmp_path):
    tables = [TableConfig("one", 3_000, 8), TableConfig("small", 10, 4), TableConfig("open", None, 8)]
    four = ShardingPlan(4, {table.name: TableSharding(table.name, "row_wise", (0, 1, 2, 3)) for table in tables})
    three = ShardingPlan(
        3,
        {
            "one": TableSharding("one", "hot_cold", (0, 1, 2), (), 3, (4, 5, 2_000)),
            "small": TableSharding("small", "data_parallel", (0, 1, 2)),
            "open": TableSharding("open", "column_wise", (2, 0), (5, 3)),
        },
    )
    layers, others = world(tables, four), world(tables, three)
    fill(layers, _ids(2))
    for layer in layers:
        save_tables(layer, tmp_path / "four")
    for layer in others:
        restore_tables(layer, tmp_path / "four")
        save_tables(layer, tmp_path / "three")
    reshard_tables(tmp_path / "four", tmp_path / "resharded", three)
    names = [
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "three", tmp_path / "resharded")
    ]
    assert names[0] == names[1]
    for name in sorted(names[0]):
        if name.name == "manifest.json":
            of_both = [json.loads((tmp_path / folder / name).read_text()) for folder in ("three", "resharded")]
            assert of_both[0] == of_both[1]


def test_another_precision_is_rounded_to_the_nearest(tmp_path):
    tables = [TableConfig("one", 3_000, 8, Adam(0.1)), TableConfig("open", None, 8, Adam(0.1))]
    layer = alone(tables)
    fill([layer], _ids(3))
    save_tables(layer, tmp_path / "a")
    reshard_tables(tmp_path / "a", tmp_path / "b", 2, "float16", "bfloat16")
    narrow = [replace(table, precision="float16", slot_precision="bfloat16") for table in tables]
    read, anew = alone(narrow), alone(narrow)
    restore_tables(read, tmp_path / "a")
    restore_tables(anew, tmp_path / "b")
    for one, two in zip(read.shards(), anew.shards(), strict=True):
        assert state_of(one) == state_of(two)


def test_what_cannot_be_is_refused(tmp_path):
    tables = [TableConfig("one", 30, 8, Adam(0.1))]
    save_tables(alone(tables), tmp_path / "a")
    other = ShardingPlan(2, {"two": TableSharding("two", "row_wise", (0, 1))})
    with pytest.raises(UserError, match=r"the sharding plan is of tables two; the checkpoint has one"):
        reshard_tables(tmp_path / "a", tmp_path / "b", other)
    wide = ShardingPlan(2, {"one": TableSharding("one", "column_wise", (0, 1), (4, 5))})
    with pytest.raises(UserError, match="its plan has 9 columns, it has 8"):
        reshard_tables(tmp_path / "a", tmp_path / "b", wide)
    with pytest.raises(UserError, match="velocity is too small"):
        reshard_tables(tmp_path / "a", tmp_path / "b", 2, slot_precision="float16")


def test_nothing_at_all_is_resharded(tmp_path):
    save_tables(alone([TableConfig("open", None, 4, SGD(0.1))]), tmp_path / "a")
    reshard_tables(tmp_path / "a", tmp_path / "b", 3)
    restored = alone([TableConfig("open", None, 4, SGD(0.1))])
    restore_tables(restored, tmp_path / "b")
    assert len(restored.vocabulary("open").ids) == 0
