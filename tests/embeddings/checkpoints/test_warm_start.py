"""Tables that begin with rows of others, id by id."""

import numpy as np
import pytest

from embeddings import SGD, Adam, RowWiseAdagrad, TableConfig, restore_tables, save_tables
from embeddings.checkpoints import WarmStarted, warm_start
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from tests.embeddings.checkpoints.worlds import alone, fill, rows_by_id, value_of, world

OLD = [TableConfig("one", 2_000, 8, Adam(0.1)), TableConfig("open", None, 8, Adam(0.1))]
IDS = np.arange(0, 900, 3)
PLANS = {
    "alone": ShardingPlan(1, {}),
    "rows": ShardingPlan(3, {name: TableSharding(name, "row_wise", (0, 1, 2)) for name in ("one", "open")}),
    "mixed": ShardingPlan(
        3,
        {
            "one": TableSharding("one", "hot_cold", (0, 1, 2), (), 3, (1, 2, 1_500)),
            "open": TableSharding("open", "column_wise", (1, 2), (3, 5)),
        },
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    layers = world(OLD, PLANS["rows"])
    fill(layers, {"open": IDS})
    for layer in layers:
        save_tables(layer, folder)
    return folder


def _by_id(shard, name):
    ids, numbers = rows_by_id(shard)
    variable = {"rows": shard.held.rows, **shard.held.slots}[name].numpy()
    return dict(zip(ids.tolist(), variable[numbers].tolist(), strict=True))


@pytest.mark.parametrize("plan", PLANS)
def test_rows_and_slots_come_along_by_the_mapping(saved, plan):
    tables = [TableConfig("one", 3_000, 8, Adam(0.1)), TableConfig("open", None, 8, Adam(0.1))]
    rng = np.random.default_rng(0)
    there, here = rng.permutation(2_000)[:700], rng.permutation(3_000)[:700]
    mappings = {"one": (there, here), "open": (IDS[:100], IDS[:100] + 10**12)}
    layers, fresh = world(tables, PLANS[plan]), world(tables, PLANS[plan])
    told = [warm_start(layer, saved, mappings) for layer in layers]
    assert told[0]["one"] == WarmStarted(700, 2_300, 1_300, ("momentum", "velocity"), ())
    assert told[0]["open"] == WarmStarted(100, None, 200, ("momentum", "velocity"), ())
    assert all(each == told[0] for each in told)
    partner = {"one": dict(zip(here.tolist(), there.tolist(), strict=True))}
    partner["open"] = dict(zip((IDS[:100] + 10**12).tolist(), IDS[:100].tolist(), strict=True)) | {-(2**63): -(2**63)}
    came = set()
    for layer, untouched in zip(layers, fresh, strict=True):
        for shard, other in zip(layer.shards(), untouched.shards(), strict=True):
            assert int(shard.held.updates) == 3  # Adam's
            columns = np.arange(*shard.columns)
            skip = set() if shard.but is None or not shard.static else set(shard.but.tolist())
            for name in ("rows", "momentum", "velocity"):
                before = _by_id(other, name)
                for number, values in _by_id(shard, name).items():
                    old = partner[shard.config.name].get(number)
                    if old is None:
                        assert values == before[number]
                    elif number not in skip:
                        assert values == value_of(name, np.array([old]), columns)[0].tolist()
                        came.add((shard.config.name, number))
    assert len(came) == 700 + 101


def test_without_a_mapping_ids_are_the_same(saved, tmp_path):
    layer = alone([TableConfig("one", 1_500, 8, Adam(0.1)), TableConfig("open", None, 8, Adam(0.1))])
    told = warm_start(layer, saved, {"one": None, "open": None})
    assert (told["one"].kept, told["one"].new, told["one"].dropped) == (1_500, 0, 500)
    assert np.array_equal(layer.table("one").numpy(), value_of("rows", np.arange(1_500), np.arange(8)))
    assert np.array_equal(layer.vocabulary("open").ids, IDS)
    assert layer.held("open").id_state()["frequencies"].sum() == len(IDS)
    assert int(layer.counts()["open"]["rows"]) == len(IDS)
    save_tables(layer, tmp_path)
    again = alone([TableConfig("one", 1_500, 8, Adam(0.1)), TableConfig("open", None, 8, Adam(0.1))])
    restore_tables(again, tmp_path)
    assert np.array_equal(again.vocabulary("open").rows, layer.vocabulary("open").rows)


def test_another_optimizer_begins_its_slots_anew(saved):
    layer = alone([TableConfig("one", 2_000, 8, RowWiseAdagrad(0.1)), TableConfig("open", None, 8, SGD(0.1))])
    told = warm_start(layer, saved, {"one": None, "open": None})
    assert (told["one"].slots, told["one"].left_out) == ((), ("accumulator",))
    assert (told["open"].slots, told["open"].left_out) == ((), ())
    assert (layer.held("one").slots["accumulator"].numpy() == np.float32(0.1)).all()
    assert int(layer.held("one").updates) == 0


def test_static_and_dynamic_become_each_other(saved):
    layer = alone([TableConfig("one", None, 8, Adam(0.1)), TableConfig("open", 50, 8, Adam(0.1))])
    told = warm_start(layer, saved, {"one": ([5, 6], [-7, 10**15]), "open": ([3, 6], [49, 0])})
    assert told["one"] == WarmStarted(2, None, 1_998, ("momentum", "velocity"), ())
    assert told["open"] == WarmStarted(2, 48, 298, ("momentum", "velocity"), ())
    vocabulary = layer.vocabulary("one")
    assert vocabulary.ids.tolist() == [-7, 10**15]
    assert np.array_equal(vocabulary.rows[1:], value_of("rows", np.array([5, 6]), np.arange(8)))
    assert (vocabulary.rows[0] == 0).all()
    assert np.array_equal(layer.table("open").numpy()[[49, 0]], value_of("rows", np.array([3, 6]), np.arange(8)))


@pytest.mark.parametrize(
    ("mappings", "message"),
    [
        ({"two": None}, "no table 'two'; the layer has"),
        ({"one": ([1, 2], [1])}, "two lists of ids of one length"),
        ({"one": ([2_000], [1])}, "id 2000 has no row there"),
        ({"open": ([1], [1])}, "id 1 has no row there"),
        ({"one": ([1], [2_000])}, "id 2000 is not in 0 to 1999"),
        ({"one": ([1, 2], [3, 3])}, "has two partners"),
    ],
)
def test_a_wrong_mapping_changes_nothing(saved, mappings, message):
    layer = alone(OLD)
    before = layer.table("one").numpy()
    with pytest.raises(ValueError, match=message):
        warm_start(layer, saved, mappings)
    assert np.array_equal(layer.table("one").numpy(), before)


def test_tables_that_do_not_fit_are_refused(saved):
    with pytest.raises(UserError, match="table 'one' has dim 8; the layer's has 4"):
        warm_start(alone([TableConfig("one", 2_000, 4, Adam(0.1))]), saved, {"one": None})
    with pytest.raises(UserError, match="no table 'won'; did you mean 'one'"):
        warm_start(alone([TableConfig("won", 2_000, 8, Adam(0.1))]), saved, {"won": None})
