"""QuotientRemainderEmbedding: a vocabulary's vectors composed of the rows of two small tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Any, Literal

from embeddings.bags import bag_of, in_shape_of
from embeddings.compressed.base import (
    CompressedEmbedding,
    check_tables,
    features_document,
    features_from,
    vocabulary_size_of,
)
from embeddings.compressed.flat import flat_ids, inside, with_ids
from embeddings.config import FeatureConfig, TableConfig, need_known, tables_of
from embeddings.kernels.group import Bag
from embeddings.pooling import assert_finite, pooled
from foundation.tf import keras, tf

Operation = Literal["multiply", "add", "concat"]
OPERATIONS = ("multiply", "add", "concat")


@keras.utils.register_keras_serializable("headrace")
class QuotientRemainderEmbedding(CompressedEmbedding):
    """The quotient-remainder trick (Shi et al., "Compositional Embeddings Using Complementary Partitions", KDD 2020):
    of id x, with m buckets,

        vector(x) = quotient_row(x // m) op remainder_row(x mod m),

    op being an elementwise product, a sum, or a concatenation. Each id keeps a vector of its own, and what is held of
    `vocabulary_size` rows is ceil(vocabulary_size / m) + m; fewest at m near the root of vocabulary_size.

    The features are those that ShardedEmbedding takes, the table being the one that is not held: its ids, width of
    output, optimizer, seed and initial scale are kept, the last so that a vector's elements begin with the variance of
    that table's, s^2 / 3 of values uniform in [-s, s):

        multiply: both tables uniform in [-a, a), a = (3 s^2)^(1/4), as (a^2 / 3)^2 = s^2 / 3;
        add:      a = s / sqrt(2);
        concat:   a = s, both tables of half the width.

    A product is formed id by id, before the bag is combined: this needs one vector per id, [n, dim], where the other
    operations combine in the lookup. Input, output and training otherwise as CompressedEmbedding.

    Raises:
      ValueError: operation is unknown, buckets are not in 1..vocabulary_size, a concatenation's dim is odd, or a
        product would begin at 0, where it has no gradient.
      tf.errors.InvalidArgumentError: an id is outside its vocabulary (the feature is named).
    """

    def __init__(
        self,
        features: Mapping[str, FeatureConfig],
        buckets: int | Mapping[str, int],
        operation: Operation = "multiply",
        name: str = "quotient_remainder_embedding",
        **options: Any,
    ) -> None:
        """buckets: m, of every table or by the table's name."""
        if operation not in OPERATIONS:
            raise ValueError(f"operation is {operation!r}; known: {', '.join(OPERATIONS)}")
        tables = tables_of(features)
        if isinstance(buckets, Mapping):
            check_tables("buckets", buckets, tables)
            of_table = dict(buckets)
        else:
            of_table = dict.fromkeys(tables, buckets)
        parts = {}
        for name_of_feature, feature in features.items():
            combiner = None if operation == "multiply" else feature.combiner
            pair = _two_tables(feature.table, of_table[feature.table.name], operation)
            for part, table in zip(_parts(name_of_feature), pair, strict=True):
                parts[part] = FeatureConfig(table, combiner)
        super().__init__(features, parts, name=name, **options)
        self._buckets = of_table
        self._operation = operation

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """See the class."""
        need_known(self.name, inputs, self.features)
        asked: dict[str, Any] = {}
        bags: dict[str, Bag] = {}
        for name, value in inputs.items():
            table = self.features[name].table
            ids = inside(name, flat_ids(name, value), table.vocabulary_size)
            if table.vocabulary_size < 2**31:
                ids = tf.cast(ids, tf.int32)  # LiteRT does not divide 64-bit integers
            if self._operation == "multiply":
                bags[name] = bag_of(name, value, self.features[name], 0)
            m = self._buckets[table.name]
            for part, of_part in zip(_parts(name), (ids // m, ids % m), strict=True):
                asked[part] = of_part if name in bags else with_ids(value, of_part)
        found = self._embedding(asked, training=training)
        outputs = {}
        for name, value in inputs.items():
            quotient, remainder = (found[part] for part in _parts(name))
            if name in bags:
                outputs[name] = self._product(value, bags[name], quotient, remainder)
            else:
                outputs[name] = _composed(quotient, remainder, self._operation)
        return outputs

    def _product(self, value: Any, bag: Bag, quotient: tf.Tensor, remainder: tf.Tensor) -> Any:
        """Of vectors [n, dim] each: combined [B, dim], or in the shape of the ids."""
        vectors = tf.cast(quotient, tf.float32) * tf.cast(remainder, tf.float32)
        checks = [] if bag.weights is None else [assert_finite(bag)]
        with tf.control_dependencies(checks):
            vectors = pooled(vectors, bag)
        vectors = tf.cast(vectors, self.compute_dtype)
        return in_shape_of(value, vectors) if bag.combiner is None else vectors

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "features": features_document(self.features),
            "buckets": dict(self._buckets),
            "operation": self._operation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuotientRemainderEmbedding:
        options = dict(config)
        return cls(features_from(options.pop("features")), **options)


def _two_tables(table: TableConfig, buckets: int, operation: Operation) -> tuple[TableConfig, TableConfig]:
    """Of the quotients and of the remainders."""
    size = vocabulary_size_of(table)
    if not 1 <= buckets <= size:
        raise ValueError(f"table '{table.name}': buckets are {buckets}; 1 to vocabulary_size, {size}, are wanted")
    if operation == "concat" and table.dim % 2:
        raise ValueError(f"table '{table.name}': dim is {table.dim}; a concatenation of two halves wants an even one")
    if operation == "multiply" and table.scale == 0:
        raise ValueError(f"table '{table.name}': initializer_scale is 0; a product of zeros has no gradient")
    dim = table.dim // 2 if operation == "concat" else table.dim
    scales = {"multiply": sqrt(sqrt(3.0) * table.scale), "add": table.scale / sqrt(2.0), "concat": table.scale}
    rows = {"quotient": -(-size // buckets), "remainder": buckets}
    quotient, remainder = (
        replace(
            table,
            name=f"{table.name}/{part}",
            vocabulary_size=count,
            dim=dim,
            initializer_scale=scales[operation],
        )
        for part, count in rows.items()
    )
    return quotient, remainder


def _parts(name: str) -> tuple[str, str]:
    """The features of the layer inside that one feature is made of."""
    return f"{name}/quotient", f"{name}/remainder"


def _composed(quotient: Any, remainder: Any, operation: Operation) -> Any:
    """Vectors that may be combined already, or ragged: sum and concatenation are linear."""
    if isinstance(quotient, tf.RaggedTensor):
        return quotient.with_flat_values(_composed(quotient.flat_values, remainder.flat_values, operation))
    return quotient + remainder if operation == "add" else tf.concat([quotient, remainder], axis=-1)
