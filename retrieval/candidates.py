"""The candidate vectors of a saved model, computed in pieces from the rows that a piece asks for: no table is in memory
whole, whatever ranks and plan saved it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.bags import bag_of
from embeddings.checkpoints.manifest import Saved
from embeddings.checkpoints.saved_rows import SavedRows, opened
from embeddings.config import FeatureConfig
from embeddings.dense import DenseCheckpoint
from embeddings.feature_tables import tables_for
from embeddings.optimizers import SGD
from embeddings.pooling import pooled
from foundation.errors import UserError
from foundation.tensors import to_tensors
from foundation.tf import as_written, tf
from inputs.entities import FeatureSpec
from inputs.features import FeatureSpace, Inputs
from inputs.ragged import Ragged
from retrieval.config import RetrievalConfig
from retrieval.encoders.features import chosen
from retrieval.towers import item_tower_of, item_vectors, width_of
from retrieval.vectors import ROWS_PER_BLOCK


class CandidateTower(tf.Module):
    """The candidate side of a `TwoTower`, with rows of its tables given. What it tracks is named as there."""

    def __init__(self, item_features: Mapping[str, FeatureSpec], config: RetrievalConfig, seed: int) -> None:
        super().__init__(name="two_tower")
        self.features = chosen("item_features", item_features, config.item_features)
        self.tables: dict[str, FeatureConfig] = tables_for(
            self.features, config.embedding_dim, SGD(1.0), seed, config.embedding_precision
        )
        self._config = config
        self._item_tower = item_tower_of(config, width_of(self.features, config.embedding_dim), seed)

    def embed_items(self, inputs: Mapping[str, Any], rows: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """[B, dim] float32. inputs: as `TwoTower.embed_items`, but that ids are places among the rows of their table,
        rows: [any, embedding_dim] by table, in the table's precision."""
        activations = {}
        for name, feature in self.tables.items():
            bag = bag_of(name, inputs[name], feature, 0)
            vectors = tf.cast(tf.gather(rows[feature.table.name], bag.ids), tf.float32)
            activations[name] = pooled(vectors, bag)
        return item_vectors(self._config, self._item_tower, self.features, activations, inputs)


class SavedCandidates:
    """The catalogue's candidates as of `now` (seconds), as a checkpoint's model has them.

    dense: the prefix of its dense variables. tables: the folder of its tables. positions: [N] int64, all of the
    catalogue, in the order in which vectors are computed: that in which the rows of the largest table lie on the disk.

    Raises:
      UserError: the checkpoint is damaged, or not of a model with this feature space and configuration.
    """

    def __init__(
        self, space: FeatureSpace, config: RetrievalConfig, seed: int, now: int, dense: Path, tables: Path
    ) -> None:
        self._space, self._now, self._folder = space, now, tables
        self._tower = CandidateTower(space.item_features, config, seed)
        self._embed = tf.function(as_written(self._tower.embed_items), reduce_retracing=True)
        self._rows = _tables(tables, self._tower)
        try:
            DenseCheckpoint(model=self._tower).read(str(dense))
        except (tf.errors.OpError, AssertionError, ValueError) as error:
            raise _misfit(dense, "its dense variables are others") from error
        self.dim = config.dim
        self.positions = self._in_order()

    def _in_order(self) -> np.ndarray:
        positions = np.arange(len(self._space.items))
        single = {n: f.table for n, f in self._tower.tables.items() if self._tower.features[n].kind == "category"}
        if not single:
            return positions
        name = max(single, key=lambda name: single[name].vocabulary_size or 0)
        ids = np.asarray(self._space.item_inputs(positions, self._now)[name])
        return self._rows[single[name].name].order(ids)

    def vectors(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """[n, dim] float32, a few thousand at once, of `positions[start:stop]` in turn. The rows that these ask for are
        in memory meanwhile.

        Raises:
          UserError: what is read of the checkpoint is damaged.
        """
        inputs = self._space.item_inputs(self.positions[start:stop], self._now)
        inputs = {name: inputs[name] for name in self._tower.features}
        rows = {}
        for table, saved in self._rows.items():
            names = [name for name, feature in self._tower.tables.items() if feature.table.name == table]
            ids = np.unique(np.concatenate([_ids(inputs[name]) for name in names]))
            order = saved.order(ids)
            values = saved.read("rows", ids[order])
            rows[table] = tf.convert_to_tensor(values[np.argsort(order)])
            inputs |= {name: _places(inputs[name], ids) for name in names}
        for first in range(0, stop - start, ROWS_PER_BLOCK):
            block = np.arange(first, min(first + ROWS_PER_BLOCK, stop - start))
            yield self._embed(to_tensors(_taken(inputs, block)), rows).numpy()


def _tables(folder: Path, tower: CandidateTower) -> dict[str, SavedRows]:
    saved, found = Saved.read(folder), {}
    for feature in tower.tables.values():
        table = feature.table
        there = saved.tables.get(table.name)
        if there is None or (there.vocabulary_size, there.dim) != (table.vocabulary_size, table.dim):
            has = "none" if there is None else f"{there.vocabulary_size} rows of {there.dim}"
            raise _misfit(
                folder, f"of table '{table.name}' it has {has}, where {table.vocabulary_size} rows of {table.dim} are"
            )
        found[table.name] = opened(saved, table.name)
    return found


def _misfit(path: Path, how: str) -> UserError:
    return UserError(
        f"{path}: not of the model that this job and feature space are for ({how}).",
        "Name a checkpoint in the run directory that it was trained in, whose data have not been made anew since.",
    )


def _ids(values: np.ndarray | Ragged) -> np.ndarray:
    return values.values if isinstance(values, Ragged) else values


def _places(values: np.ndarray | Ragged, ids: np.ndarray) -> np.ndarray | Ragged:
    if isinstance(values, Ragged):
        return values.map_values(np.searchsorted(ids, values.values))
    return np.searchsorted(ids, values)


def _taken(inputs: Inputs, rows: np.ndarray) -> Inputs:
    return {n: values.take(rows) if isinstance(values, Ragged) else values[rows] for n, values in inputs.items()}
