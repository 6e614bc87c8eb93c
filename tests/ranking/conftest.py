"""A small seeded world with position bias, as ranking batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from foundation.tensors import to_tensors
from inputs.entities import FeatureSpec
from inputs.ragged import Ragged, splits_of
from inputs.schema import Label

USERS, ITEMS, TOPICS, SLATE, HISTORY = 60, 80, 6, 8, 12


@dataclass(frozen=True)
class World:
    """Clicks need an examined position and an attractive item; watch seconds and likes are known given a click."""

    relevance: np.ndarray  # [users, items], the click's logit at a position that is always examined
    favour: np.ndarray  # [items], what the logging policy shows first
    topics: np.ndarray  # [items] int64, 1-based
    histories: np.ndarray  # [users, HISTORY] item ids, 1-based

    query_features = {
        "user_id": FeatureSpec("user_id", "category", USERS + 1, "user_id"),
        "history_item_id": FeatureSpec("history_item_id", "categories", ITEMS + 1, "item_id"),
        "history_topic": FeatureSpec("history_topic", "categories", TOPICS + 1, "item_topic"),
        "user_age": FeatureSpec("user_age", "number"),
    }
    item_features = {
        "item_id": FeatureSpec("item_id", "category", ITEMS + 1, "item_id"),
        "item_topic": FeatureSpec("item_topic", "category", TOPICS + 1, "item_topic"),
        "item_published_age": FeatureSpec("item_published_age", "number"),
    }
    context_features = {"context_position": FeatureSpec("context_position", "number")}
    labels = (
        Label(name="click", kind="binary"),
        Label(name="watch_seconds", kind="number"),
        Label(name="like", kind="binary"),
    )

    def queries(self, users: np.ndarray) -> dict[str, Any]:
        ids = self.histories[users].ravel()
        splits = splits_of(np.full(len(users), HISTORY))
        return {
            "user_id": users + 1,
            "history_item_id": Ragged(ids, splits),
            "history_topic": Ragged(self.topics[ids - 1], splits),
            "user_age": np.zeros(len(users), np.float32),
        }

    def items(self, items: np.ndarray) -> dict[str, Any]:
        return {
            "item_id": items + 1,
            "item_topic": self.topics[items],
            "item_published_age": np.zeros(len(items), np.float32),
        }

    def batch(self, lists: int, seed: int) -> dict[str, Any]:
        """A ranking batch (numpy). The log shows on top what it favours, whatever it is worth to the user."""
        rng = np.random.default_rng(seed)
        users = rng.integers(0, USERS, lists)
        items = rng.integers(0, ITEMS, (lists, SLATE))
        logits = self.relevance[users[:, None], items]
        shown = np.argsort(-(self.favour[items] + rng.normal(0, 0.5, logits.shape)), axis=1)
        items, logits = np.take_along_axis(items, shown, 1).ravel(), np.take_along_axis(logits, shown, 1).ravel()
        position = np.tile(np.arange(SLATE), lists)
        examined = rng.random(len(items)) < (1 + position) ** -1.0
        click = examined & (rng.random(len(items)) < 1 / (1 + np.exp(-logits)))
        watch = np.where(click, np.expm1(2 + 0.5 * logits + rng.normal(0, 0.1, len(items))).clip(0), np.nan)
        like = np.where(click, rng.random(len(items)) < 1 / (1 + np.exp(-logits)), np.nan)
        return {
            **self.queries(users),
            **self.items(items),
            "list_row_splits": splits_of(np.full(lists, SLATE)),
            "item_position": items,
            "context_position": ((position - 3.5) / 2.3).astype(np.float32),
            "label_click": click.astype(np.float32),
            "label_watch_seconds": watch.astype(np.float32),
            "label_like": like.astype(np.float32),
        }

    def everything(self) -> dict[str, Any]:
        """Query and item inputs of one list per user that holds every item, as tensors."""
        users = np.arange(USERS)
        return {
            "query_inputs": to_tensors(self.queries(users)),
            "item_inputs": to_tensors(self.items(np.tile(np.arange(ITEMS), USERS))),
            "list_row_splits": to_tensors({"splits": splits_of(np.full(USERS, ITEMS))})["splits"],
        }


@pytest.fixture(scope="session")
def world() -> World:
    rng = np.random.default_rng(7)
    topics = rng.integers(1, TOPICS + 1, ITEMS)
    taste = rng.normal(0, 1.5, (USERS, TOPICS))
    quality = rng.normal(0, 0.7, ITEMS)
    relevance = taste[:, topics - 1] + quality - 0.5
    histories = np.argsort(-(relevance + rng.normal(0, 0.7, relevance.shape)), axis=1)[:, :HISTORY] + 1
    return World(relevance, rng.normal(0, 1, ITEMS), topics, histories)
