"""What the columns of a dataset mean."""

from __future__ import annotations

from typing import Literal

from foundation.config import Config

FeatureKind = Literal["category", "categories", "number", "time", "text"]
LabelKind = Literal["binary", "number"]

USER, ITEM, TIME, LIST = "user_id", "item_id", "timestamp", "list_id"


class Feature(Config):
    """A described property of a user, an item or an impression.

    kind: "category" (one value), "categories" (a list of values), "number", "time" (int64 seconds; learned as an age),
    "text" (shown to people, not learned).
    """

    name: str
    kind: FeatureKind


class Label(Config):
    """What an event says about the user's response: "binary" (0 or 1) or "number" (watch seconds, a rating)."""

    name: str
    kind: LabelKind


class Schema(Config):
    """Column names of a dataset beside the fixed ones (`user_id`, `item_id`, `timestamp`, and `list_id` with lists).

    has_lists: events carry `list_id`, one value per request shown to a user; rows of a list stand together.
    """

    user_features: tuple[Feature, ...] = ()
    item_features: tuple[Feature, ...] = ()
    context_features: tuple[Feature, ...] = ()
    labels: tuple[Label, ...] = ()
    has_lists: bool = False

    @property
    def event_columns(self) -> list[str]:
        """Columns of the events files, in order."""
        lists = [LIST] if self.has_lists else []
        extra = [feature.name for feature in self.context_features] + [label.name for label in self.labels]
        return [USER, ITEM, TIME, *lists, *extra]


class Positive(Config):
    """Which events count as the user's interest: `label` >= `at_least`."""

    label: str
    at_least: float = 1.0
