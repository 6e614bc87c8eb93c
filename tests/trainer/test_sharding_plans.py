"""A plan from a file, and files that are none."""

import json

import pytest

from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from trainer.sharding_plans import plan_for

PLAN = ShardingPlan(2, {"item_id": TableSharding("item_id", "row_wise", (0, 1))})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"retrieval": {"plan": PLAN.document(), "prediction": {}}}))
    return path


def test_a_models_plan_is_read(file):
    assert plan_for(str(file), "retrieval", 2) == PLAN
    assert plan_for(None, "retrieval", 2) is None


@pytest.mark.parametrize(
    ("model", "ranks", "message"),
    [("ranking", 2, "no plan for 'ranking'"), ("retrieval", 3, "for 2 ranks; there are 3")],
)
def test_another_models_or_worlds_is_refused(file, model, ranks, message):
    with pytest.raises(UserError, match=message):
        plan_for(str(file), model, ranks)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"retrieval": {}}', '{"retrieval": {"plan": {"ranks": 2, "tables": 3}}}']
)
def test_what_is_no_plan_is_named(file, content):
    file.write_text(content)
    with pytest.raises(UserError, match=r"plan\.json"):
        plan_for(str(file), "retrieval", 2)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        plan_for(str(tmp_path / "none.json"), "retrieval", 2)
