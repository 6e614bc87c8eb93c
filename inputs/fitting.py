"""Fitting a feature space: what the training period holds, and every entity's features encoded by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError, nearest
from inputs.dataset import Dataset
from inputs.entities import Entities, encode_categories, encode_number, encode_time, id_map
from inputs.ragged import Ragged
from inputs.schema import ITEM, TIME, USER, Feature, Schema
from inputs.splits import Split


@dataclass(frozen=True)
class EncodedFeature:
    """A feature of every entity, by position. kind as in Feature; values: [n], Ragged of n rows, or seconds [n]."""

    kind: str
    values: np.ndarray | Ragged
    vocabulary_size: int = 0


@dataclass(frozen=True)
class TrainingCounts:
    """Training events by position of user and item, what is known of context, and each label's mean."""

    users: np.ndarray
    items: np.ndarray
    context: dict[str, dict[str, Any]]
    label_means: dict[str, float]


def count_training(dataset: Dataset, split: Split, users: Entities, items: Entities) -> TrainingCounts:
    """One scan over the log; only events before `split.train_end` count."""
    features = [f for f in dataset.schema.context_features if f.kind in ("category", "number")]
    by_user, by_item = np.zeros(len(users), np.int64), np.zeros(len(items), np.int64)
    values: dict[str, set[str]] = {f.name: set() for f in features if f.kind == "category"}
    labels = [label.name for label in dataset.schema.labels]
    sums = {name: np.zeros(3) for name in (*labels, *(f.name for f in features if f.kind == "number"))}
    for table in dataset.scan([USER, ITEM, TIME, *labels, *(f.name for f in features)]):
        table = table.filter(pc.less(table.column(TIME), split.train_end))
        by_user += np.bincount(users.position_of(table.column(USER)), minlength=len(users))
        by_item += np.bincount(items.position_of(table.column(ITEM)), minlength=len(items))
        for name, seen in values.items():
            seen.update(v for v in pc.cast(pc.unique(table.column(name)), pa.string()).to_pylist() if v is not None)
        for name in sums:
            x = pc.drop_null(pc.cast(table.column(name), pa.float64())).to_numpy()
            sums[name] += [len(x), x.sum(), (x**2).sum()]
    context: dict[str, dict[str, Any]] = {}
    for feature in features:
        if feature.kind == "category":
            context[feature.name] = {"kind": "category", "values": sorted(values[feature.name])}
        else:
            n, total, squares = sums[feature.name]
            mean = float(total) / max(float(n), 1.0)
            deviation = math.sqrt(max(float(squares) / max(float(n), 1.0) - mean**2, 0.0)) or 1.0
            context[feature.name] = {"kind": "number", "mean": mean, "deviation": deviation}
    means = {name: float(sums[name][1]) / max(float(sums[name][0]), 1.0) for name in labels}
    return TrainingCounts(by_user, by_item, context, means)


def encode_features(
    entities: Entities, features: Sequence[Feature], events: np.ndarray, min_events: int, hashed: Mapping[str, int]
) -> dict[str, EncodedFeature]:
    """Every feature of every entity, after its id."""
    column, trained = entities.table.column(entities.key), events[entities.first :]
    ids = id_map(column.filter(pa.array(trained >= min_events)), hashed.get(entities.key))
    columns = {entities.key: EncodedFeature("category", _shift(ids.ids(column), entities.first), ids.size)}
    seen = trained > 0
    for feature in features:
        column = entities.table.column(feature.name)
        if feature.kind in ("category", "categories"):
            values, size = encode_categories(column, seen, hashed.get(feature.name))
            columns[feature.name] = EncodedFeature(feature.kind, _shift(values, entities.first), size)
        elif feature.kind == "number":
            columns[feature.name] = EncodedFeature("number", _shift(encode_number(column, seen), entities.first))
        elif feature.kind == "time" and entities.first == 0:
            columns[feature.name] = EncodedFeature("time", encode_time(column))
    return columns


def _shift(values: Any, first: int) -> Any:
    """Puts `first` rows of the unknown (id 0, number 0, no category) before the rows."""
    if isinstance(values, Ragged):
        return Ragged(values.values, np.concatenate([np.zeros(first, np.int64), values.row_splits]))
    return np.concatenate([np.zeros(first, values.dtype), values])


def check_hashed(hashed: Mapping[str, int], schema: Schema) -> None:
    """Raises UserError, naming the nearest, when `hashed` names a feature that the log lacks."""
    known = [USER, ITEM]
    known += [f.name for f in (*schema.user_features, *schema.item_features) if f.kind in ("category", "categories")]
    for name in hashed:
        if name not in known:
            raise UserError(f"inputs.hashed: no categorical feature '{name}' in the log; {nearest(name, known)}")
