"""A small world of users with a taste for topics, as retrieval batches; a small log behind a feature space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inputs.config import InputsConfig
from inputs.dataset import Dataset, DatasetWriter
from inputs.entities import FeatureSpec
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.ragged import Ragged, splits_of
from inputs.schema import Feature, Label, Schema
from inputs.splits import Split

USERS, ITEMS, TOPICS, HISTORY = 40, 60, 5, 6


@dataclass(frozen=True)
class World:
    """Each user likes the items of one topic."""

    tastes: np.ndarray  # [users] int64, 1-based topics
    topics: np.ndarray  # [items] int64, 1-based

    query_features = {
        "user_id": FeatureSpec("user_id", "category", USERS + 1, "user_id"),
        "user_age": FeatureSpec("user_age", "number"),
        "history_item_id": FeatureSpec("history_item_id", "categories", ITEMS + 1, "item_id"),
        "history_topic": FeatureSpec("history_topic", "categories", TOPICS + 1, "item_topic"),
    }
    item_features = {
        "item_id": FeatureSpec("item_id", "category", ITEMS + 1, "item_id"),
        "item_topic": FeatureSpec("item_topic", "category", TOPICS + 1, "item_topic"),
        "item_published_age": FeatureSpec("item_published_age", "number"),
    }

    def queries(self, users: np.ndarray, lengths: np.ndarray | None = None) -> dict[str, Any]:
        """Query inputs; `lengths` of the histories, `HISTORY` items of the user's topic by default."""
        lengths = np.full(len(users), HISTORY) if lengths is None else lengths
        rows = [np.flatnonzero(self.topics == self.tastes[u])[:n] + 1 for u, n in zip(users, lengths, strict=True)]
        history = Ragged(np.concatenate(rows).astype(np.int64), splits_of(np.array([len(row) for row in rows])))
        return {
            "user_id": np.asarray(users) + 1,
            "user_age": np.linspace(-1, 1, len(users)).astype(np.float32),
            "history_item_id": history,
            "history_topic": history.map_values(self.topics[history.values - 1]),
        }

    def items(self, items: np.ndarray) -> dict[str, Any]:
        return {
            "item_id": np.asarray(items) + 1,
            "item_topic": self.topics[items],
            "item_published_age": (np.asarray(items) % 7).astype(np.float32),
        }

    def batch(self, rows: int, seed: int, longest: int | None = None) -> dict[str, Any]:
        """A retrieval batch (numpy): users drawn evenly, each with an item of the topic they like. longest: histories
        are of up to so many items."""
        rng = np.random.default_rng(seed)
        users = rng.integers(0, USERS, rows)
        items = np.array([rng.choice(np.flatnonzero(self.topics == self.tastes[user])) for user in users])
        log_q = np.full(rows, -np.log(ITEMS), np.float32)
        lengths = None if longest is None else rng.integers(0, longest + 1, rows)
        return {**self.queries(users, lengths), **self.items(items), "item_position": items, "log_q": log_q}


def topical_world() -> World:
    rng = np.random.default_rng(5)
    return World(rng.integers(1, TOPICS + 1, USERS), 1 + np.arange(ITEMS) % TOPICS)


@pytest.fixture(scope="session")
def world() -> World:
    return topical_world()


@dataclass(frozen=True)
class Log:
    """A feature space and the positives behind it, in time order."""

    space: FeatureSpace
    interactions: Interactions
    histories: Histories
    end: int


@pytest.fixture(scope="session")
def log(tmp_path_factory) -> Log:
    return small_log(tmp_path_factory.mktemp("log"))


def small_log(folder: Path) -> Log:
    """Ten days of clicks of 30 users on 40 items, ids scattered so that positions cannot be guessed."""
    rng = np.random.default_rng(3)
    day, rows = 86_400, 1_500
    users, items = 1_000 + 7 * rng.permutation(30), 5_000 + 3 * rng.permutation(40)
    schema = Schema(
        item_features=(Feature(name="topic", kind="category"), Feature(name="published", kind="time")),
        labels=(Label(name="click", kind="binary"),),
    )
    path = folder / "data"
    with DatasetWriter(path, schema, "a test") as writer:
        writer.write_users(pa.table({"user_id": users}))
        writer.write_items(
            pa.table(
                {
                    "item_id": items,
                    "topic": pa.array(rng.choice(["news", "music", "sport"], 40)),
                    "published": pa.array(rng.integers(0, 10 * day, 40), pa.int64()),
                }
            )
        )
        writer.write_events(
            pa.table(
                {
                    "user_id": rng.choice(users, rows),
                    "item_id": rng.choice(items, rows),
                    "timestamp": np.sort(rng.integers(0, 10 * day, rows)),
                    "list_id": np.arange(rows),
                    "click": rng.integers(0, 2, rows).astype(np.float32),
                }
            )
        )
    dataset = Dataset.open(path)
    space = FeatureSpace.fit(dataset, Split.by_share(dataset, 0.1, 0.1), InputsConfig(format="simulated"))
    interactions = Interactions.from_dataset(dataset, space, None)
    space.follow(interactions)
    return Log(space, interactions, Histories(interactions), int(dataset.time_range[1]) + 1)
