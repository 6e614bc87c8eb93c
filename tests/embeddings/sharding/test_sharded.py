"""Where rows are: every id of a table is in one shard, and arithmetic finds it there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import SGD, FeatureConfig, FrequencyAdmission, ShardedEmbedding, TableConfig
from embeddings.hashing import initial_rows, table_key
from embeddings.sharding import ShardingPlan, TableSharding
from embeddings.sharding.sharded import ShardedTable
from foundation.tf import tf
from strategies import LocalCommunicator


def _everywhere(config, sharding, ranks):
    return [ShardedTable(config, sharding, rank) for rank in range(ranks)]


def _initial(config, ids):
    key = table_key(config.seed, config.name)
    return initial_rows(tf.constant(ids, tf.int64), config.dim, key, config.scale).numpy()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5_000), st.integers(1, 5))
def test_row_wise_shards_hold_each_row_once(rows, ranks):
    config = TableConfig("t", rows, 2, SGD(0.1))
    seen = []
    for table in _everywhere(config, TableSharding("t", "row_wise", tuple(range(ranks))), ranks):
        ids = table.ids_of(0)
        held = table.parts[0].held
        assert (held is None) == (len(ids) == 0)
        if held is not None:
            assert np.array_equal(table.rows_of(0, tf.constant(ids)), np.arange(len(ids)))
            assert np.array_equal(held.rows.numpy(), _initial(config, ids))
        seen.append(ids)
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(rows))


def test_columns_begin_as_the_whole_tables():
    config = TableConfig("t", 10, 8, SGD(0.1))
    tables = _everywhere(config, TableSharding("t", "column_wise", (0, 1), (3, 5)), 2)
    parts = [table.parts[rank].held.rows.numpy() for rank, table in enumerate(tables)]
    assert tables[0].parts[1].held is None
    assert np.array_equal(np.concatenate(parts, 1), _initial(config, np.arange(10)))


def test_hot_rows_are_everywhere():
    config = TableConfig("t", 3_000, 2, SGD(0.1))
    for table in _everywhere(config, TableSharding("t", "hot_cold", (0, 1), (), 3, (5, 7, 2_999)), 2):
        hot = table.parts[1]
        assert np.array_equal(hot.held.rows.numpy(), _initial(config, [5, 7, 2_999]))
        assert np.array_equal(table.rows_of(1, tf.constant([7, 2_999, 5], tf.int64)), [1, 2, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "row-wise"}, "no sharding type 'row-wise'"),
        ({"ranks": ()}, "each of one or more, once"),
        ({"ranks": (0, 0)}, "each of one or more, once"),
        ({"kind": "table_wise", "ranks": (0, 1)}, "on one rank"),
        ({"kind": "column_wise"}, "the columns of each of its ranks"),
        ({"columns": (1, 1)}, "the columns of each of its ranks"),
        ({"kind": "column_wise", "columns": (0, 4)}, "at least one"),
        ({"kind": "hot_cold"}, "how many rows are hot"),
        ({"kind": "hot_cold", "hot_rows": 2, "hot_ids": (4, 3)}, "rising order"),
    ],
)
def test_a_sharding_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TableSharding(**{"table": "t", "kind": "row_wise", "ranks": (0, 1), **options})


@pytest.mark.parametrize(
    ("config", "sharding", "message"),
    [
        (TableConfig("t", 9, 8), TableSharding("t", "column_wise", (0, 1), (4, 5)), "9 columns, it has 8"),
        (TableConfig("t", 9, 8), TableSharding("t", "hot_cold", (0, 1), (), 10), "hot ids lie in 0 to 8"),
        (TableConfig("t", None, 8), TableSharding("t", "hot_cold", (0, 1), (), 2), "wants its hot_ids"),
        (
            TableConfig("t", None, 8, admission=FrequencyAdmission(2)),
            TableSharding("t", "hot_cold", (0, 1), (), 1, (3,)),
            "cannot be hot_cold",
        ),
    ],
)
def test_a_table_that_cannot_be_so_is_refused(config, sharding, message):
    with pytest.raises(ValueError, match=message):
        ShardedTable(config, sharding, 0)


class _TwoRanks(LocalCommunicator):
    size = 2


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ShardingPlan(3, {"t": TableSharding("t", "row_wise", (0, 1, 2))}), "is for 3 ranks; there are 2"),
        (ShardingPlan(2, {"u": TableSharding("u", "row_wise", (0, 1))}), r"of tables \['u'\]; the layer has \['t'\]"),
    ],
)
def test_a_plan_of_something_else_is_refused(plan, message):
    features = {"f": FeatureConfig(TableConfig("t", 9, 8))}
    with pytest.raises(ValueError, match=message):
        ShardedEmbedding(features, communicator=_TwoRanks(), plan=plan)


def test_a_plan_survives_json():
    tables = [
        TableSharding("a", "column_wise", (0, 1), (3, 5)),
        TableSharding("b", "hot_cold", (1, 0), (), 2, (4, 9)),
    ]
    plan = ShardingPlan(2, {table.table: table for table in tables})
    assert ShardingPlan.from_document(plan.document()) == plan
    with pytest.raises(ValueError, match="no rank 2; the plan is for 2"):
        ShardingPlan(2, {"c": TableSharding("c", "table_wise", (2,))})
