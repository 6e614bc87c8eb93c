"""Checkpoints compared by id, whatever ranks, plans and precisions they were saved under."""

from dataclasses import replace

import numpy as np
import pytest

from embeddings import SGD, Adam, TableConfig, save_tables
from embeddings.checkpoints.compare import Difference, compare_tables
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tf import tf
from tests.embeddings.checkpoints.worlds import alone, fill, world

TABLES = [TableConfig("one", 3_000, 8, Adam(0.1)), TableConfig("open", None, 8, Adam(0.1))]
IDS = np.arange(0, 5_000, 7)


def _saved(folder, layers, ids=IDS):
    fill(layers, {"open": ids})
    for layer in layers:
        save_tables(layer, folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return _saved(tmp_path_factory.mktemp("saved"), [alone(TABLES)])


def _change(layer, table, row, column, value):
    rows = layer.table(table)
    rows.scatter_nd_update([[row, column]], tf.constant([value], rows.dtype))


def test_other_ranks_and_plans_are_the_same(saved, tmp_path):
    plan = ShardingPlan(
        3,
        {
            "one": TableSharding("one", "column_wise", (2, 0), (3, 5)),
            "open": TableSharding("open", "hot_cold", (0, 1, 2), (), 2, (7, 21)),
        },
    )
    found = compare_tables(saved, _saved(tmp_path, world(TABLES, plan)))
    assert all(table.same for table in found.values())
    assert found["one"].variables["rows"].rows == 3_000
    assert found["open"].variables["rows"].rows == len(IDS) + 1  # and the one that other ids share
    assert set(found["open"].variables) == {"rows", "momentum", "velocity", "frequencies", "last_seen"}


def test_what_differs_is_counted_and_measured(saved, tmp_path):
    layer = alone(TABLES)
    fill([layer], {"open": IDS})
    old = layer.table("one").numpy()
    _change(layer, "one", 5, 2, old[5, 2] + 0.5)
    _change(layer, "one", 5, 3, old[5, 3] + 0.25)
    _change(layer, "one", 2_999, 0, old[2_999, 0] - 0.125)
    layer.held("open").slots["velocity"].scatter_nd_update([[3, 1]], [9.0])
    save_tables(layer, tmp_path)
    found = compare_tables(saved, tmp_path)
    rows = found["one"].variables["rows"]
    assert (rows.rows, rows.differ, rows.absolute) == (3_000, 2, 0.5)
    new = layer.table("one").numpy()
    largest = np.maximum(np.abs(old), np.abs(new))
    assert rows.relative == pytest.approx((np.abs(old.astype(float) - new) / largest).max())
    assert found["one"].variables["momentum"].differ == 0
    assert found["open"].variables["velocity"].differ == 1
    assert found["open"].variables["rows"].differ == 0
    assert not found["one"].same
    assert not found["open"].same


def test_ids_of_one_alone_are_counted(saved, tmp_path):
    found = compare_tables(saved, _saved(tmp_path, [alone(TABLES)], np.concatenate([IDS[:-3], [1, 2, 3, 4]])))["open"]
    assert (found.only_here, found.only_there) == (3, 4)
    assert found.variables["rows"].rows == len(IDS) - 3 + 1
    assert found.variables["rows"].differ == 0


def test_another_precision_differs_by_rounding_alone(saved, tmp_path):
    narrow = [replace(table, precision="bfloat16") for table in TABLES]
    rows = compare_tables(saved, _saved(tmp_path, [alone(narrow)]))["one"].variables["rows"]
    assert 0 < rows.relative <= 2**-8


def test_what_cannot_be_compared_is_said(saved, tmp_path):
    others = [TableConfig("one", 4_000, 8, SGD(0.1)), TableConfig("open", 10, 8, Adam(0.1)), TableConfig("new", 3, 4)]
    layer = alone(others)
    fill([layer], {})
    save_tables(layer, tmp_path)
    found = compare_tables(saved, tmp_path)
    assert (found["one"].only_here, found["one"].only_there) == (0, 1_000)
    assert found["one"].unlike == ["optimizer Adam here; SGD there", "momentum only here", "velocity only here"]
    assert found["one"].variables["rows"].differ == 0
    assert found["open"].unlike == ["dynamic, dim 8 here; static, dim 8 there"]
    assert found["new"].unlike == ["only there"]
    assert not any(table.same for table in found.values())
    assert found["new"].document()["same"] is False


def test_numbers_that_are_none():
    difference = Difference()
    nan, inf = float("nan"), float("inf")
    difference.add(
        np.array([[nan, 1], [inf, 0], [nan, 0], [0, -0.0]]), np.array([[nan, 1], [inf, 0], [1, 0], [0, 0.0]])
    )
    assert (difference.rows, difference.differ, difference.absolute) == (4, 1, inf)
    assert difference.document() == {"rows": 4, "differ": 1, "absolute": "inf", "relative": "inf", "same": False}
