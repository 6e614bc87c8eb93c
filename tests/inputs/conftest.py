"""A random log, written small."""

import numpy as np
import pyarrow as pa
import pytest

from inputs.dataset import Dataset, DatasetWriter
from inputs.schema import Feature, Label, Schema

SCHEMA = Schema(
    user_features=(Feature(name="age", kind="number"),),
    item_features=(
        Feature(name="title", kind="text"),
        Feature(name="topic", kind="category"),
        Feature(name="tags", kind="categories"),
        Feature(name="published", kind="time"),
    ),
    context_features=(Feature(name="position", kind="category"), Feature(name="propensity", kind="logged")),
    labels=(Label(name="click", kind="binary"), Label(name="seconds", kind="number")),
)


def tables(users: int = 30, items: int = 40, lists: int = 200, size: int = 5, seed: int = 0):
    """A random log: (users, items, events) tables of `SCHEMA`, ids scattered so that positions cannot be guessed."""
    rng = np.random.default_rng(seed)
    user_ids, item_ids = 1_000 + 7 * rng.permutation(users), 5_000 + 3 * rng.permutation(items)
    topics = np.array(["news", "music", "sport", None], dtype=object)[rng.integers(4, size=items)]
    tags = [list(rng.choice(["a", "b", "c", "d"], rng.integers(0, 4), replace=False)) for _ in range(items)]
    user_table = pa.table({"user_id": user_ids, "age": pa.array(rng.uniform(10, 80, users), pa.float32())})
    item_table = pa.table(
        {
            "item_id": item_ids,
            "title": [f"video {i}" for i in range(items)],
            "topic": pa.array(topics, pa.string()),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "published": pa.array(rng.integers(0, 1_000, items), pa.int64()),
        }
    )
    times = np.repeat(np.sort(rng.integers(1_000, 100_000, lists)), size)
    click = rng.integers(0, 2, lists * size).astype(np.float32)
    events = pa.table(
        {
            "user_id": np.repeat(rng.choice(user_ids, lists), size),
            "item_id": rng.choice(item_ids, lists * size),
            "timestamp": times,
            "list_id": np.repeat(np.arange(lists), size),
            "position": pa.array(np.tile(np.arange(size), lists).astype(str)),
            "propensity": pa.array(rng.uniform(size=lists * size), pa.float32()),
            "click": click,
            "seconds": pa.array(rng.uniform(0, 60, lists * size), pa.float32(), mask=click == 0),
        }
    )
    return user_table, item_table, events


@pytest.fixture
def make_dataset(tmp_path):
    """Writes a random log and opens it; returns (dataset, its three tables)."""

    def make(name: str = "log", **options) -> tuple[Dataset, tuple[pa.Table, pa.Table, pa.Table]]:
        users, items, events = tables(**options)
        with DatasetWriter(tmp_path / name, SCHEMA, "a test") as writer:
            writer.write_users(users)
            writer.write_items(items)
            writer.write_events(events)
        return Dataset.open(tmp_path / name), (users, items, events)

    return make
