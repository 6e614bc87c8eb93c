"""A small log, untrained models over it, and the bundle that serves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inputs.config import InputsConfig
from inputs.dataset import Dataset, DatasetWriter
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.schema import Feature, Label, Schema
from inputs.splits import Split
from postranking.config import PostRankingConfig
from ranking.config import RankingConfig
from ranking.ranker import Ranker
from retrieval.config import IndexConfig, RetrievalConfig
from retrieval.index import Index
from retrieval.two_tower import TwoTower
from retrieval.vectors import Vectors
from serving.bundle import Card, export_bundle
from serving.config import FunnelConfig
from serving.funnel import Funnel

USERS, ITEMS, LISTS, SIZE, DAY = 30, 120, 300, 5, 86_400

SCHEMA = Schema(
    user_features=(Feature(name="age", kind="number"),),
    item_features=(
        Feature(name="title", kind="text"),
        Feature(name="topic", kind="category"),
        Feature(name="tags", kind="categories"),
        Feature(name="published", kind="time"),
    ),
    context_features=(Feature(name="position", kind="category"),),
    labels=(Label(name="click", kind="binary"), Label(name="seconds", kind="number")),
)


@dataclass(frozen=True)
class Served:
    """What was exported, and where. `run` is a run directory as far as serving knows."""

    run: Path
    card: Card
    space: FeatureSpace
    histories: Histories
    two_tower: TwoTower
    ranker: Ranker
    vectors: np.ndarray

    @property
    def bundle(self) -> Path:
        return self.run / "export"


def write_log(path: Path) -> Dataset:
    """Ids are scattered so that positions cannot be guessed; titles look like markup."""
    rng = np.random.default_rng(0)
    users, items = 1_000 + 7 * rng.permutation(USERS), 5_000 + 3 * rng.permutation(ITEMS)
    tags = [list(rng.choice(["a", "b", "c", "d"], rng.integers(0, 4), replace=False)) for _ in range(ITEMS)]
    rows = LISTS * SIZE
    click = rng.integers(0, 2, rows).astype(np.float32)
    with DatasetWriter(path, SCHEMA, "a test") as writer:
        writer.write_users(pa.table({"user_id": users, "age": pa.array(rng.uniform(10, 80, USERS), pa.float32())}))
        writer.write_items(
            pa.table(
                {
                    "item_id": items,
                    "title": [f"[red]video {i}[/]" for i in range(ITEMS)],
                    "topic": pa.array(rng.choice(["news", "music", "sport"], ITEMS)),
                    "tags": pa.array(tags, pa.list_(pa.string())),
                    "published": pa.array(rng.integers(0, 10 * DAY, ITEMS), pa.int64()),
                }
            )
        )
        writer.write_events(
            pa.table(
                {
                    "user_id": np.repeat(rng.choice(users, LISTS), SIZE),
                    "item_id": rng.choice(items, rows),
                    "timestamp": np.repeat(np.sort(rng.integers(0, 10 * DAY, LISTS)), SIZE),
                    "list_id": np.repeat(np.arange(LISTS), SIZE),
                    "position": pa.array(np.tile(np.arange(SIZE), LISTS).astype(str)),
                    "click": click,
                    "seconds": pa.array(rng.uniform(0, 60, rows), pa.float32(), mask=click == 0),
                }
            )
        )
    return Dataset.open(path)


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Served:
    return serve(tmp_path_factory.mktemp("run"), {})


@pytest.fixture(scope="session")
def served_interests(tmp_path_factory) -> Served:
    """The same with queries of three vectors."""
    options = {"encoder": "multi_interest", "multi_interest": {"interests": 3, "length": 10}}
    return serve(tmp_path_factory.mktemp("run"), options)


def serve(run: Path, options: dict[str, Any]) -> Served:
    dataset = write_log(run / "data")
    space = FeatureSpace.fit(dataset, Split.by_share(dataset, 0.1, 0.1), InputsConfig(format="simulated"))
    interactions = Interactions.from_dataset(dataset, space, None)
    space.follow(interactions)
    retrieval = RetrievalConfig.model_validate({"embedding_dim": 4, "units": (8,), "dim": 6, **options})
    two_tower = TwoTower(space.query_features, space.item_features, retrieval, seed=1)
    ranking = RankingConfig(dim=4, num_experts=2, expert_units=(8,), head_units=(4,))
    ranker = Ranker(
        space.query_features,
        space.item_features,
        space.context_features,
        ranking.resolved(SCHEMA.labels, space.label_means),
        seed=2,
    )
    now = int(dataset.time_range[1]) + 1
    card = Card("a test", now, 10, FunnelConfig(retrieve=60, rank=25), PostRankingConfig(slate_size=7))
    vectors = Vectors(two_tower, space).candidates(now)
    Index.build(vectors, IndexConfig(), seed=0).save(run / "index")
    histories = Histories(interactions)
    export_bundle(run / "export", card, two_tower, ranker, space, histories, run / "index", vectors)
    return Served(run, card, space, histories, two_tower, ranker, vectors)


@pytest.fixture(scope="session")
def funnel(served) -> Funnel:
    return Funnel.load(served.run)


@pytest.fixture(scope="session")
def known_user(served) -> int:
    """The raw id of the user with the most positives."""
    positives = np.bincount(served.histories.interactions.users)
    return served.space.users.raw_ids(np.array([int(np.argmax(positives))]))[0]
