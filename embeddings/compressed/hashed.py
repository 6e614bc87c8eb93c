"""UnifiedEmbedding: one table that all features share, each through hash functions of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embeddings.compressed.base import CompressedEmbedding, vocabulary_size_of
from embeddings.compressed.flat import flat_ids, with_ids
from embeddings.config import Combiner, FeatureConfig, TableConfig, need_known
from embeddings.hashing import splitmix64, table_key
from foundation.tf import keras, tf


@dataclass(frozen=True)
class HashedFeature:
    """One feature of a UnifiedEmbedding. num_hashes: rows that an id is looked up in, side by side in the output: its
    width over the table's. combiner: as FeatureConfig's."""

    num_hashes: int = 2
    combiner: Combiner | None = "mean"

    def __post_init__(self) -> None:
        if self.num_hashes < 1:
            raise ValueError(f"num_hashes is {self.num_hashes}; at least 1 is wanted")


@keras.utils.register_keras_serializable("headrace")
class UnifiedEmbedding(CompressedEmbedding):
    """Feature multiplexing (Coleman et al., "Unified Embedding", NeurIPS 2023; as `tfrs`' UnifiedEmbedding): of feature
    f, id x, with its own hash functions h_f0 .. h_f(k-1),

        vector(f, x) = [row(h_f0(x)), ..., row(h_f(k-1)(x))],

    [B, num_hashes * dim], or with combiner None one such vector per id. Any 64-bit id is good, negative ones too: ids
    need no vocabulary, and two share their whole vector with probability vocabulary_size^-num_hashes. What is held is
    the one table, however many features and ids there are. It is exported to a SavedModel as it stands; LiteRT, which
    has no 64-bit bitwise ops, needs TensorFlow's (SELECT_TF_OPS).

    Input, output and training otherwise as CompressedEmbedding.
    """

    def __init__(
        self,
        features: Mapping[str, HashedFeature],
        table: TableConfig,
        name: str = "unified_embedding",
        **options: Any,
    ) -> None:
        """table: its vocabulary_size is the number of buckets, its dim the width of one hash function's share; its seed
        and name, with the feature's name, choose the hash functions."""
        buckets = vocabulary_size_of(table)
        parts = {
            part: FeatureConfig(table, feature.combiner)
            for name_of_feature, feature in features.items()
            for part in _parts(name_of_feature, feature)
        }
        super().__init__(features, parts, name=name, **options)
        self._table = table
        self._buckets = buckets
        self._keys = {feature: hash_key(table, feature) for feature in features}

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """See the class."""
        need_known(self.name, inputs, self.features)
        asked = {}
        for name, value in inputs.items():
            feature = self.features[name]
            rows = hashed(flat_ids(name, value), self._keys[name], feature.num_hashes, self._buckets)
            for part, ids in zip(_parts(name, feature), tf.unstack(rows, axis=1), strict=True):
                asked[part] = with_ids(value, ids)
        found = self._embedding(asked, training=training)
        return {name: _side_by_side([found[part] for part in _parts(name, self.features[name])]) for name in inputs}

    def get_config(self) -> dict[str, Any]:
        features = {name: asdict(feature) for name, feature in self.features.items()}
        return {**super().get_config(), "features": features, "table": self._table.document()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> UnifiedEmbedding:
        options = dict(config)
        features = {name: HashedFeature(**entry) for name, entry in options.pop("features").items()}
        return cls(features, TableConfig.from_document(options.pop("table")), **options)


def hash_key(table: TableConfig, feature: str) -> int:
    """The 64-bit key of a feature's hash functions into a table."""
    return table_key(table.seed, f"{table.name}/hash/{feature}")


def hashed(ids: tf.Tensor, key: int, num_hashes: int, buckets: int) -> tf.Tensor:
    """[n, num_hashes] int64 in 0..buckets-1, of ids [n] int64: splitmix64(splitmix64(key + id) + h) mod buckets, a
    function of (key, id, h) alone (Steele, Lea and Flood, OOPSLA 2014).

    The remainder of 64 bits favours no bucket by more than buckets / 2^64. uint64 throughout: it runs in any
    TensorFlow, on the CPU.
    """
    with tf.device("CPU:0"):  # 64-bit integer products have no kernel elsewhere
        of_id = splitmix64(tf.cast(ids, tf.uint64) + tf.constant(key, tf.uint64))
        counters = tf.cast(tf.range(num_hashes), tf.uint64)
        mixed = splitmix64(of_id[:, tf.newaxis] + counters[tf.newaxis, :])
        return tf.cast(tf.math.floormod(mixed, tf.constant(buckets, tf.uint64)), tf.int64)


def _parts(name: str, feature: HashedFeature) -> list[str]:
    """The features of the layer inside that one feature is made of."""
    return [f"{name}/hash_{number}" for number in range(feature.num_hashes)]


def _side_by_side(vectors: list[Any]) -> Any:
    if isinstance(vectors[0], tf.RaggedTensor):
        return vectors[0].with_flat_values(tf.concat([part.flat_values for part in vectors], axis=-1))
    return tf.concat(vectors, axis=-1)
