"""What the columns of a dataset mean."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from foundation.config import Config

FeatureKind = Literal["category", "categories", "number", "time", "text", "logged"]
LabelKind = Literal["binary", "number"]

USER, ITEM, TIME, LIST = "user_id", "item_id", "timestamp", "list_id"


class Feature(Config):
    """A described property of a user, an item or an impression.

    kind: "category" (one value), "categories" (a list of values), "number", "time" (int64 seconds; learned as an age),
    "text" (shown to people, not learned), "logged" (a number kept for estimators, such as a propensity; not learned).
    """

    name: str
    kind: FeatureKind


class Label(Config):
    """What an event says about the user's response: "binary" (0 or 1) or "number" (watch seconds, a rating)."""

    name: str
    kind: LabelKind


class Schema(Config):
    """Column names of a dataset beside the fixed ones (`user_id`, `item_id`, `timestamp`, `list_id`).

    `list_id` is one value per request answered (or, in a log of ratings, per sitting): rows of a list stand together.
    """

    user_features: tuple[Feature, ...] = ()
    item_features: tuple[Feature, ...] = ()
    context_features: tuple[Feature, ...] = ()
    labels: tuple[Label, ...] = ()

    @model_validator(mode="after")
    def _distinct_names(self) -> Schema:
        """Columns, and the inputs of models that are named after them, must not take each other's place."""
        described = {"user": self.user_features, "item": self.item_features}
        for side, features in described.items():
            refuse_repeated(f"{side} features", [feature.name for feature in features], taken=("id", USER, ITEM))
        refuse_repeated("context and labels", self.event_columns[4:], taken=(USER, ITEM, TIME, LIST))
        return self

    @property
    def event_columns(self) -> list[str]:
        """Columns of the events files, in order."""
        extra = [feature.name for feature in self.context_features] + [label.name for label in self.labels]
        return [USER, ITEM, TIME, LIST, *extra]


def refuse_repeated(where: str, names: list[str], taken: tuple[str, ...]) -> None:
    """Raises ValueError when a name stands for two columns, or is headrace's own."""
    for name in names:
        if name in taken:
            raise ValueError(f"{where}: the name '{name}' is taken by headrace's own column")
        if names.count(name) > 1:
            raise ValueError(f"{where}: the name '{name}' stands for {names.count(name)} columns")


class Positive(Config):
    """Which events count as the user's interest: `label` >= `at_least`."""

    label: str
    at_least: float = 1.0
