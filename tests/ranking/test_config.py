"""Objectives follow from a dataset's labels, or the job names its own."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from foundation.errors import UserError
from inputs.schema import Label
from ranking.config import Listwise, Objective, RankingConfig, objectives_for

VIDEO = (
    Label(name="watch_seconds", kind="number"),
    Label(name="click", kind="binary"),
    Label(name="like", kind="binary"),
)
RATINGS = (Label(name="rating", kind="number"), Label(name="like", kind="binary"))


def test_a_click_comes_first_and_the_rest_is_given_the_click() -> None:
    found = [(o.name, o.label, o.kind, o.given) for o in objectives_for(VIDEO)]
    assert found == [
        ("click", "click", "binary", None),
        ("watch_seconds", "watch_seconds", "duration", "click"),
        ("like", "like", "binary", "click"),
    ]


def test_ratings_stand_alone() -> None:
    found = [(o.name, o.kind, o.given, o.value_weight) for o in objectives_for(RATINGS)]
    assert found == [("rating", "regression", None, 1.0), ("like", "binary", None, 1.0)]


def test_resolving_starts_each_objective_at_its_label_mean() -> None:
    named = (Objective(name="stars", label="rating", kind="regression", initial=3.0),)
    assert RankingConfig(objectives=named).resolved(RATINGS, {"rating": 3.6}).objectives[0].initial == 3.0
    derived = RankingConfig().resolved(RATINGS, {"rating": 3.6, "like": 1.0})
    assert [o.initial for o in derived.objectives] == [3.6, 0.9999]
    assert [o.initial for o in RankingConfig().resolved(RATINGS).objectives] == [None, None]


def test_a_resolved_configuration_survives_its_document() -> None:
    resolved = RankingConfig().resolved(VIDEO)
    assert RankingConfig.model_validate(resolved.model_dump(mode="json")) == resolved


def test_an_unknown_label_is_named_with_the_nearest() -> None:
    config = RankingConfig(objectives=(Objective(name="stars", label="ratings", kind="regression"),))
    with pytest.raises(UserError, match=r"'stars' wants the label 'ratings'.*did you mean 'rating'"):
        config.resolved(RATINGS)


def test_a_binary_objective_wants_a_binary_label() -> None:
    config = RankingConfig(objectives=(Objective(name="stars", label="rating", kind="binary"),))
    with pytest.raises(UserError, match="'stars' is binary, but the label 'rating' is a number"):
        config.resolved(RATINGS)


def test_no_labels_is_a_users_error() -> None:
    with pytest.raises(UserError, match="no labels"):
        RankingConfig().resolved(())


CLICK = Objective(name="click", label="click", kind="binary")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": (CLICK, CLICK)}, "two objectives are named 'click'"),
        ({"objectives": (CLICK.model_copy(update={"given": "clik"}),)}, "given 'clik'"),
        ({"objectives": (CLICK,), "listwise": Listwise(objective="clik")}, "did you mean 'click'"),
        ({"listwise": {"loss": "list_mle"}}, "approx_ndcg"),
        ({"dims": 3}, "dims"),
    ],
)
def test_inconsistent_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RankingConfig(**options)


@pytest.mark.parametrize(
    "options", [{"name": "loss"}, {"name": "listwise"}, {"initial": 1.0}, {"kind": "duration", "initial": -1.0}]
)
def test_impossible_objectives_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        Objective(**{"name": "click", "label": "click", "kind": "binary", **options})
