"""What models see of users, items and context: fitted on the training period, applied everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foundation.errors import UserError, nearest
from foundation.files import atomic_directory, read_json
from inputs.config import InputsConfig
from inputs.dataset import Dataset
from inputs.entities import Entities, FeatureSpec, InputKind, log_age
from inputs.fitting import EncodedFeature, check_hashed, count_training, encode_features
from inputs.interactions import Interactions
from inputs.ragged import Ragged
from inputs.schema import ITEM, USER, Schema
from inputs.splits import Split
from inputs.trends import Trends
from inputs.vocabulary import Vocabulary

Inputs = dict[str, np.ndarray | Ragged]
BATCH_NAMES = ("item_position",)  # what batches hold beside model inputs under a name that an input could have


class FeatureSpace:
    """Maps positions to model inputs. Names and shapes: docs/architecture.md, "Names in batches"."""

    def __init__(
        self,
        users: Entities,
        items: Entities,
        user_columns: Mapping[str, EncodedFeature],
        item_columns: Mapping[str, EncodedFeature],
        context: Mapping[str, dict[str, Any]],
        label_means: Mapping[str, float],
        schema: Schema,
    ) -> None:
        self.users, self.items, self.schema = users, items, schema
        self.label_means = label_means  # of each label's known values in training
        self._user_columns, self._item_columns, self._context = user_columns, item_columns, context
        self._trends: Trends | None = None

    def follow(self, interactions: Interactions) -> None:
        """Makes how much items are liked (`inputs.trends`) part of `item_inputs`, counted from these positives."""
        self._trends = Trends(interactions)

    @classmethod
    def fit(cls, dataset: Dataset, split: Split, config: InputsConfig) -> FeatureSpace:
        """Fits vocabularies and standardisations on events before `split.train_end`.

        Raises:
          UserError: `config.hashed` names a feature that the log lacks, or a feature's input has a taken name.
        """
        check_hashed(config.hashed, dataset.schema)
        users, items = Entities(dataset.users, USER, first=1), Entities(dataset.items, ITEM, first=0)
        counted = count_training(dataset, split, users, items)
        schema = dataset.schema
        hashed, rare = config.hashed, config.min_item_events
        user_columns = encode_features(users, schema.user_features, counted.users, 1, hashed)
        item_columns = encode_features(items, schema.item_features, counted.items, rare, hashed)
        names = [_spec("item", name, column).name for name, column in item_columns.items()]
        for name in names:
            if names.count(name) > 1 or name in (*Trends.names(), *BATCH_NAMES):
                raise UserError(f"item features: the model input '{name}' is taken.", "Rename the log's column.")
        return cls(users, items, user_columns, item_columns, counted.context, counted.label_means, schema)

    @cached_property
    def query_features(self) -> dict[str, FeatureSpec]:
        """The inputs of `query_inputs`."""
        own = [_spec("user", name, column) for name, column in self._user_columns.items()]
        history = [
            FeatureSpec(f"history_{name}", "categories", column.vocabulary_size, _prefixed("item", name))
            for name, column in self._item_columns.items()
            if column.kind in ("category", "categories")
        ]
        return {spec.name: spec for spec in own + history}

    @cached_property
    def item_features(self) -> dict[str, FeatureSpec]:
        """The inputs of `item_inputs`."""
        specs = [_spec("item", name, column) for name, column in self._item_columns.items()]
        specs += [FeatureSpec(name, "number") for name in Trends.names()]
        return {spec.name: spec for spec in specs}

    @cached_property
    def context_features(self) -> dict[str, FeatureSpec]:
        """The inputs of `context_inputs`."""
        specs = {}
        for name, entry in self._context.items():
            size = len(entry["values"]) + 1 if entry["kind"] == "category" else 0
            specs[f"context_{name}"] = FeatureSpec(
                f"context_{name}", entry["kind"], size, f"context_{name}" if size else ""
            )
        return specs

    def query_inputs(self, users: np.ndarray, histories: Ragged) -> Inputs:
        """Inputs of queries. users: [rows] positions; histories: rows of item positions, oldest first."""
        inputs: Inputs = {}
        for name, column in self._user_columns.items():
            inputs[_prefixed("user", name)] = _rows(column.values, users)
        for name, column in self._item_columns.items():
            if column.kind == "category":
                inputs[f"history_{name}"] = histories.map_values(_array(column.values)[histories.values])
            elif column.kind == "categories":
                flat = _ragged(column.values).take(histories.values)
                inputs[f"history_{name}"] = Ragged(flat.values, flat.row_splits[histories.row_splits])
        return inputs

    def item_inputs(self, items: np.ndarray, times: np.ndarray | int) -> Inputs:
        """Inputs of items [rows] (positions) as of `times` [rows] or one moment (seconds)."""
        inputs: Inputs = {}
        for name, column in self._item_columns.items():
            if column.kind == "time":
                inputs[f"item_{name}_age"] = log_age(_array(column.values)[items], np.asarray(times))
            else:
                inputs[_prefixed("item", name)] = _rows(column.values, items)
        if self._trends is None:
            raise RuntimeError("item_inputs needs the log's positives: call follow(interactions) first")
        return {**inputs, **self._trends.inputs(items, times)}

    def context_inputs(self, events: pa.Table) -> Inputs:
        """Inputs of the context columns of events."""
        inputs: Inputs = {}
        for name, entry in self._context.items():
            column = events.column(name)
            if entry["kind"] == "category":
                vocabulary = Vocabulary(pa.array(entry["values"], pa.string()))
                inputs[f"context_{name}"] = vocabulary.ids(pc.cast(column, pa.string()))
            else:
                values = pc.fill_null(pc.cast(column, pa.float64()), entry["mean"]).to_numpy()
                inputs[f"context_{name}"] = ((values - entry["mean"]) / entry["deviation"]).astype(np.float32)
        return inputs

    def raw_columns(self) -> Iterator[tuple[str, str, pa.Array | pa.ChunkedArray, np.ndarray | Ragged]]:
        """Of each categorical feature: its table, its name, its values as the log writes them, by entity, and the
        embedding ids they became, by position: the last ones are the entities'."""
        for side, entities, columns in (
            ("user", self.users, self._user_columns),
            ("item", self.items, self._item_columns),
        ):
            for name, column in columns.items():
                if column.kind in ("category", "categories"):
                    yield _prefixed(side, name), name, entities.table.column(name), column.values
        for name, entry in self._context.items():
            if entry["kind"] == "category":
                values = pa.array(entry["values"], pa.string())
                yield f"context_{name}", name, values, np.arange(1, len(values) + 1)

    @property
    def context_columns(self) -> list[str]:
        """Events columns that `context_inputs` reads."""
        return list(self._context)

    def item_words(self, position: int) -> dict[str, str]:
        """What a person wants to read of an item: its text features, then its categories in words (not opaque ids)."""
        row = self.items.table.slice(position, 1).to_pylist()[0]
        words = {}
        for kinds in (("text",), ("category", "categories")):
            for feature in self.schema.item_features:
                value = row[feature.name]
                if feature.kind in kinds and value is not None and not isinstance(value, int):
                    words[feature.name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return words

    @property
    def publication(self) -> np.ndarray | None:
        """[items] int64 seconds each item came into the world (UNKNOWN_TIME: unknown): the log's first item feature of
        kind "time". None when it has none."""
        columns = (column for column in self._item_columns.values() if column.kind == "time")
        first = next(columns, None)
        return None if first is None else _array(first.values)

    def item_group(self, name: str) -> np.ndarray:
        """[items] int64: the value of a "category" feature as an embedding id (0: unknown).

        Raises:
          UserError: items have no such feature.
        """
        known = [feature for feature, column in self._item_columns.items() if column.kind == "category"]
        if name not in known:
            raise UserError(f"items have no category feature '{name}'; {nearest(name, known)}.")
        return _array(self._item_columns[name].values)

    def item_categories(self) -> Ragged | None:
        """Rows of embedding ids: what two items are compared by for variety, the log's first item feature with a list
        of categories, else its first category beside the id. None when it has neither."""
        for kind in ("categories", "category"):
            for name, column in self._item_columns.items():
                if column.kind == kind and name != ITEM:
                    if isinstance(column.values, Ragged):
                        return column.values
                    return Ragged(column.values, np.arange(len(column.values) + 1))
        return None

    def save(self, path: str | Path) -> None:
        """Writes the space as a folder, whole or not at all."""
        arrays: dict[str, np.ndarray] = {}
        columns: dict[str, dict[str, Any]] = {"user": {}, "item": {}}
        for side, encoded in (("user", self._user_columns), ("item", self._item_columns)):
            for name, column in encoded.items():
                columns[side][name] = {"kind": column.kind, "vocabulary_size": column.vocabulary_size}
                if isinstance(column.values, Ragged):
                    arrays[f"{side}/{name}/row_splits"] = column.values.row_splits
                    arrays[f"{side}/{name}/values"] = column.values.values
                else:
                    arrays[f"{side}/{name}"] = column.values
        document = {
            "columns": columns,
            "context": self._context,
            "label_means": self.label_means,
            "schema": self.schema.model_dump(mode="json"),
        }
        with atomic_directory(path) as folder:
            # numpy's types take any name for allow_pickle
            np.savez(folder / "columns.npz", **arrays)  # type: ignore[arg-type]
            pq.write_table(self.users.table, folder / "users.parquet")
            pq.write_table(self.items.table, folder / "items.parquet")
            (folder / "space.json").write_text(json.dumps(document, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> FeatureSpace:
        """Reads a space that `save` wrote.

        Raises:
          UserError: it is missing or damaged.
        """
        path = Path(path)
        document = read_json(path / "space.json", "the feature space")
        try:
            users = Entities(pq.read_table(path / "users.parquet"), USER, first=1)
            items = Entities(pq.read_table(path / "items.parquet"), ITEM, first=0)
            with np.load(path / "columns.npz", allow_pickle=False) as arrays:
                user_columns = _stored("user", document["columns"]["user"], arrays)
                item_columns = _stored("item", document["columns"]["item"], arrays)
            return cls(
                users,
                items,
                user_columns,
                item_columns,
                document["context"],
                document["label_means"],
                Schema.model_validate(document["schema"]),
            )
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: this feature space is damaged ({error}).", "Remove it and run again.") from error


def _spec(side: str, name: str, column: EncodedFeature) -> FeatureSpec:
    prefixed = _prefixed(side, name)
    if column.kind == "time":
        return FeatureSpec(f"{prefixed}_age", "number")
    if column.kind == "number":
        return FeatureSpec(prefixed, "number")
    kind: InputKind = "categories" if column.kind == "categories" else "category"
    return FeatureSpec(prefixed, kind, column.vocabulary_size, prefixed)


def _prefixed(side: str, name: str) -> str:
    """`user_id` and `item_id` say whose they are; other features are told apart by their side."""
    return name if name in (USER, ITEM) else f"{side}_{name}"


def _rows(values: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray | Ragged:
    return values.take(rows) if isinstance(values, Ragged) else values[rows]


def _array(values: np.ndarray | Ragged) -> np.ndarray:
    assert isinstance(values, np.ndarray)
    return values


def _ragged(values: np.ndarray | Ragged) -> Ragged:
    assert isinstance(values, Ragged)
    return values


def _stored(
    side: str, columns: Mapping[str, dict[str, Any]], arrays: Mapping[str, np.ndarray]
) -> dict[str, EncodedFeature]:
    encoded = {}
    for name, entry in columns.items():
        key = f"{side}/{name}"
        values: np.ndarray | Ragged
        values = arrays[key] if key in arrays else Ragged(arrays[f"{key}/values"], arrays[f"{key}/row_splits"])
        encoded[name] = EncodedFeature(entry["kind"], values, entry["vocabulary_size"])
    return encoded
