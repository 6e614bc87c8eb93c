"""What the ranker sees of a list and of each of its rows, target-aware: the user's past against the candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.tf import tf
from inputs.entities import FeatureSpec
from inputs.schema import ITEM, USER

Specs = Mapping[str, FeatureSpec]


class Interactions:
    """Turns embeddings and numbers into two matrices, one row a list and one row a candidate.

    A candidate's row holds its own embeddings and numbers and, for every table that a query input shares with an item
    input (the mean of the watched items' topics against this item's topics), their element-wise product and dot
    product; user and item ids, whose tables differ, are crossed too, as in matrix factorisation (Koren et al., 2009;
    the product is NeuMF's GMF layer, He et al., WWW 2017).
    """

    def __init__(self, query_features: Specs, item_features: Specs, dim: int) -> None:
        self._query, self._item = dict(query_features), dict(item_features)
        self._crossed = [
            (query.name, item.name)
            for query in query_features.values()
            for item in item_features.values()
            if (query.table and query.table == item.table) or (query.name, item.name) == (USER, ITEM)
        ]
        self.query_width = sum(_width(spec, dim) for spec in query_features.values())
        self.row_width = sum(_width(spec, dim) for spec in item_features.values()) + len(self._crossed) * (dim + 1)

    @property
    def categorical(self) -> list[str]:
        """Names of the inputs that are looked up."""
        return [spec.name for spec in (*self._query.values(), *self._item.values()) if spec.table]

    def query(self, vectors: Mapping[str, tf.Tensor], inputs: Mapping[str, Any]) -> tf.Tensor:
        """[L, query_width]. vectors: looked-up inputs [L, dim]; inputs: the numbers [L]."""
        return tf.concat(_parts(self._query, vectors, inputs), axis=1)

    def rows(self, vectors: Mapping[str, tf.Tensor], inputs: Mapping[str, Any], list_of_row: tf.Tensor) -> tf.Tensor:
        """[R, row_width]. vectors: looked-up inputs, of queries [L, dim] and of items [R, dim]; list_of_row: [R]."""
        parts = _parts(self._item, vectors, inputs)
        for query, item in self._crossed:
            product = tf.gather(vectors[query], list_of_row) * vectors[item]
            parts += [product, tf.reduce_sum(product, axis=1, keepdims=True)]
        return tf.concat(parts, axis=1)


def _width(spec: FeatureSpec, dim: int) -> int:
    return dim if spec.table else 1


def _parts(features: Specs, vectors: Mapping[str, tf.Tensor], inputs: Mapping[str, Any]) -> list[tf.Tensor]:
    return [
        vectors[name] if spec.table else tf.cast(inputs[name], tf.float32)[:, tf.newaxis]
        for name, spec in features.items()
    ]
