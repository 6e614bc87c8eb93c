"""MixedDimensionEmbedding: wide rows for the ids seen often, narrow ones for the many seen seldom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from embeddings.bags import bag_of, in_shape_of
from embeddings.compressed.base import (
    CompressedEmbedding,
    check_tables,
    features_document,
    features_from,
    vocabulary_size_of,
)
from embeddings.compressed.flat import flat_ids, inside
from embeddings.config import FeatureConfig, TableConfig, need_known, tables_of
from embeddings.hashing import initial_rows, table_key
from embeddings.kernels.group import Bag
from embeddings.pooling import norms, rows_of_ids
from foundation.tf import keras, tf


@dataclass(frozen=True)
class Block:
    """Ids of about one frequency. vocabulary_size: how many. dim: floats in the row of each."""

    vocabulary_size: int
    dim: int


@keras.utils.register_keras_serializable("headrace")
class MixedDimensionEmbedding(CompressedEmbedding):
    """Mixed dimension embeddings (Ginart et al., "Mixed Dimension Embeddings with Application to Memory-Efficient
    Recommendation Systems", 2019): ids are frequency ranks, 0 the most frequent, cut into blocks; of id x in block i,

        vector(x) = row_i(x - first_i) @ projection_i,

    row_i of width d_i and projection_i [d_i, dim] a trainable weight of this layer, which the model's Keras optimizer
    steps; a block as wide as the output has none. What is held is sum of (rows_i + dim) * d_i floats.

    The features are those that ShardedEmbedding takes, the table being the one that is not held: its vocabulary, width
    of output, optimizer, seed and initial scale are kept. A projection begins uniform in [-b, b), b = sqrt(3 / d_i), so
    that a vector's elements begin with the variance of a plain table's; its values are a function of (seed, table,
    block) alone. Input, output and training otherwise as CompressedEmbedding.

    Raises:
      ValueError: a table has no blocks, they do not hold its vocabulary, or a dim is not in 1..dim or grows.
      tf.errors.InvalidArgumentError: an id is outside its vocabulary (the feature is named).
    """

    def __init__(
        self,
        features: Mapping[str, FeatureConfig],
        blocks: Mapping[str, Sequence[Block]],
        name: str = "mixed_dimension_embedding",
        **options: Any,
    ) -> None:
        """blocks: by the table's name, by descending frequency; `dims_by_popularity` gives their widths."""
        tables = tables_of(features)
        check_tables("blocks", blocks, tables)
        for table in tables.values():
            _check_blocks(table, blocks[table.name])
        parts = {
            part: FeatureConfig(table, None if feature.combiner is None else "sum")
            for name_of_feature, feature in features.items()
            for part, table in zip(
                _parts(name_of_feature, blocks[feature.table.name]),
                _tables_of(feature.table, blocks[feature.table.name]),
                strict=True,
            )
        }
        super().__init__(features, parts, name=name, **options)
        self._blocks = {table: tuple(blocks[table]) for table in tables}
        self._projections = {name: self._new_projections(table) for name, table in tables.items()}

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """See the class."""
        need_known(self.name, inputs, self.features)
        asked: dict[str, Any] = {}
        bags: dict[str, Bag] = {}
        places: dict[str, list[tf.Tensor]] = {}
        for name, value in inputs.items():
            table = self.features[name].table
            blocks = self._blocks[table.name]
            ids = inside(name, flat_ids(name, value), table.vocabulary_size)
            bags[name] = bag_of(name, value, self.features[name], 0)
            places[name] = []
            for part, block, first in zip(_parts(name, blocks), blocks, _firsts(blocks), strict=True):
                in_block = tf.where((ids >= first) & (ids < first + block.vocabulary_size))[:, 0]
                places[name].append(in_block)
                asked[part] = _at(replace(bags[name], ids=ids - first), in_block)
        found = self._embedding(asked, training=training)
        outputs = {}
        for name, value in inputs.items():
            blocks = self._blocks[self.features[name].table.name]
            vectors = self._projected(name, [found[part] for part in _parts(name, blocks)])
            if bags[name].splits is not None:
                outputs[name] = tf.add_n(vectors) * tf.cast(norms(bags[name]), self.compute_dtype)[:, tf.newaxis]
                continue
            # rather than dynamic_stitch, which LiteRT does not have
            shape = tf.stack([tf.size(bags[name].ids, tf.int64), self.features[name].table.dim])
            in_order = tf.scatter_nd(tf.concat(places[name], 0)[:, tf.newaxis], tf.concat(vectors, 0), shape)
            outputs[name] = in_shape_of(value, in_order) if self.features[name].combiner is None else in_order
        return outputs

    def projection(self, table: str, block: int) -> tf.Variable | None:
        """[d_i, dim] of a block, or None where it is as wide as the output."""
        return self._projections[table][block]

    def _new_projections(self, table: TableConfig) -> list[tf.Variable | None]:
        return [
            None
            if block.dim == table.dim
            else self.add_weight(
                name=f"{part}/projection",
                shape=(block.dim, table.dim),
                dtype=tf.float32,
                initializer=_projection_of(table, part, block.dim),
                trainable=True,
            )
            for part, block in zip(_parts(table.name, self._blocks[table.name]), self._blocks[table.name], strict=True)
        ]

    def _projected(self, name: str, vectors: list[tf.Tensor]) -> list[tf.Tensor]:
        """By block, [m, d_i] to [m, dim]."""
        projections = self._projections[self.features[name].table.name]
        return [
            of_block if projection is None else tf.matmul(of_block, projection)
            for of_block, projection in zip(vectors, projections, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        blocks = {table: [asdict(block) for block in of_table] for table, of_table in self._blocks.items()}
        return {**super().get_config(), "features": features_document(self.features), "blocks": blocks}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MixedDimensionEmbedding:
        options = dict(config)
        blocks = {table: [Block(**entry) for entry in of_table] for table, of_table in options.pop("blocks").items()}
        return cls(features_from(options.pop("features")), blocks, **options)


def dims_by_popularity(
    counts: Sequence[float] | np.ndarray, block_sizes: Sequence[int], base_dim: int, alpha: float
) -> list[int]:
    """The width of each block's rows by the power law of Ginart et al. (2019): d_i = base_dim (p_i / p_0)^alpha, p_i
    being how often one id of block i is looked up on average; rounded to the nearest power of two, as there, and in
    1..base_dim.

    counts: [vocabulary_size], how often each id was seen, by descending frequency. block_sizes: [blocks], how many ids
    are in each block. alpha: 0 gives every block base_dim, 1 widths in proportion to popularity.

    Raises:
      ValueError: alpha is not in [0, 1], base_dim is less than 1, a block is empty, the blocks do not hold the counts,
        or counts are negative, all 0, or rise from one block to the next.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it lies in [0, 1]")
    if base_dim < 1:
        raise ValueError(f"base_dim is {base_dim}; at least 1 is wanted")
    seen = np.asarray(counts, np.float64)
    if not block_sizes or min(block_sizes) < 1 or sum(block_sizes) != seen.size:
        raise ValueError(f"block_sizes are {list(block_sizes)}; sizes of at least 1 are wanted, {seen.size} in all")
    popularity = np.add.reduceat(seen, np.cumsum([0, *block_sizes[:-1]])) / np.asarray(block_sizes)
    if seen.min() < 0 or popularity[0] <= 0:
        raise ValueError("counts are not negative, and those of the first block not all 0")
    if (np.diff(popularity) > 0).any():
        raise ValueError("counts are by descending frequency; these rise from one block to the next")
    widths = np.maximum(base_dim * (popularity / popularity[0]) ** alpha, 1.0)
    rounded = np.minimum(2.0 ** np.round(np.log2(widths)), base_dim)
    rounded[widths == base_dim] = base_dim  # which need not be a power of two
    return [int(width) for width in rounded]


def _check_blocks(table: TableConfig, blocks: Sequence[Block]) -> None:
    size, held = vocabulary_size_of(table), sum(block.vocabulary_size for block in blocks)
    if held != size or any(block.vocabulary_size < 1 for block in blocks):
        raise ValueError(
            f"table '{table.name}': its {len(blocks)} blocks hold {held} ids; blocks of at least 1 are wanted, "
            f"{size} ids in all"
        )
    dims = [block.dim for block in blocks]
    if dims != sorted(dims, reverse=True) or not 1 <= dims[-1] <= dims[0] <= table.dim:
        raise ValueError(
            f"table '{table.name}': its blocks are {dims} wide; widths in 1 to {table.dim} that do not grow are wanted"
        )


def _tables_of(table: TableConfig, blocks: Sequence[Block]) -> list[TableConfig]:
    return [
        replace(table, name=part, vocabulary_size=block.vocabulary_size, dim=block.dim)
        for part, block in zip(_parts(table.name, blocks), blocks, strict=True)
    ]


def _projection_of(table: TableConfig, part: str, dim: int) -> Any:
    """Initial values, as a Keras initializer."""

    def initial(shape: tuple[int, int], dtype: tf.DType | None = None, **_: Any) -> tf.Tensor:
        return initial_rows(tf.range(dim), table.dim, table_key(table.seed, f"{part}/projection"), sqrt(3.0 / dim))

    return initial


def _firsts(blocks: Sequence[Block]) -> list[int]:
    """The first id of each block."""
    return np.cumsum([0, *(block.vocabulary_size for block in blocks[:-1])]).tolist()


def _parts(name: str, blocks: Sequence[Block]) -> list[str]:
    """The tables that a table is made of, or the features of the layer inside that a feature is made of."""
    return [f"{name}/block_{number}" for number in range(len(blocks))]


def _at(bag: Bag, places: tf.Tensor) -> Any:
    """The ids, and weights, of a bag at some places [m], in the bags that they belong to."""
    ids = tf.gather(bag.ids, places)
    if bag.splits is None:
        return ids
    rows = tf.gather(rows_of_ids(bag.splits), places)
    ids = tf.RaggedTensor.from_value_rowids(ids, rows, tf.size(bag.splits, tf.int64) - 1, validate=False)
    return ids if bag.weights is None else (ids, ids.with_values(tf.gather(bag.weights, places)))
