"""What compressed embeddings share: features of the user's, composed of lookups in one ShardedEmbedding inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embeddings.config import FeatureConfig, TableConfig
from embeddings.layer import ShardedEmbedding
from foundation.tf import keras, tf


class CompressedEmbedding(keras.layers.Layer):
    """A layer with ShardedEmbedding's contract (dict in, dict out, any subset of the features; see there for forms of
    input, training and errors), whose vectors are composed of rows of fewer, smaller or narrower tables.

    The one ShardedEmbedding inside, called once a step, holds the tables and applies their optimizers in the backward
    pass.
    """

    def __init__(self, features: Mapping[str, Any], parts: Mapping[str, FeatureConfig], name: str, **options: Any):
        """features: the user's, by name. parts: the features of the layer inside."""
        super().__init__(name=name, autocast=False, **options)
        self.features = dict(features)
        self._embedding = ShardedEmbedding(parts, dtype=self.dtype_policy)
        self.built = True

    @property
    def sharded(self) -> ShardedEmbedding:
        """The layer inside, which holds the tables: what `save_tables` takes."""
        return self._embedding

    @property
    def tables(self) -> dict[str, tf.Variable]:
        """The rows of each table that is really held, by name."""
        return self._embedding.tables

    def table(self, name: str) -> tf.Variable:
        """The rows of one table that is really held."""
        return self._embedding.table(name)


def vocabulary_size_of(table: TableConfig) -> int:
    """Of a static table.

    Raises:
      ValueError: it is dynamic.
    """
    if table.vocabulary_size is None:
        raise ValueError(f"table '{table.name}': vocabulary_size is None; a compressed embedding's tables are static")
    return table.vocabulary_size


def check_tables(what: str, given: Mapping[str, Any], tables: Mapping[str, TableConfig]) -> None:
    """Fails with a ValueError unless an option is given for each of the tables, and for no other."""
    if given.keys() != tables.keys():
        raise ValueError(f"{what} are given for the tables {sorted(given)}; the features' tables are {sorted(tables)}")


def features_document(features: Mapping[str, FeatureConfig]) -> dict[str, Any]:
    """As plain types, for a Keras config."""
    return {
        name: {"table": feature.table.document(), "combiner": feature.combiner} for name, feature in features.items()
    }


def features_from(document: Mapping[str, Any]) -> dict[str, FeatureConfig]:
    """The features that `features_document` described."""
    return {
        name: FeatureConfig(TableConfig.from_document(entry["table"]), entry["combiner"])
        for name, entry in document.items()
    }
