"""A feature's input, whatever its form, as flat ids with the row each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embeddings.config import FeatureConfig
from foundation.tf import tf


@dataclass(frozen=True)
class Bags:
    """ids: [n] int64. rows: [n] int64, the bag each id is in, ascending; None when a bag is one id. num_rows: [] int64.
    weights: [n] float32 or None. like: the input whose shape a combiner of None restores."""

    ids: tf.Tensor
    rows: tf.Tensor | None
    num_rows: tf.Tensor
    weights: tf.Tensor | None
    like: Any


def bags_of(name: str, value: Any, feature: FeatureConfig) -> Bags:
    """The bags of one feature's input.

    value: ids [B], [B, L], RaggedTensor or SparseTensor (row by row) of any integer dtype, or a pair (ids, weights) of
    one form and shape.

    Raises:
      TypeError, ValueError: ids are not integers, or the shape is none of these.
      tf.errors.InvalidArgumentError: weights do not have the ids' shape.
    """
    weights = None
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value, tf.SparseTensor):
        value, weights = value
    if not isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        value = tf.convert_to_tensor(value)
    if not value.dtype.is_integer:
        raise TypeError(f"feature '{name}': ids are {value.dtype.name}; an integer dtype is wanted")
    if weights is not None and feature.combiner is None:
        raise ValueError(f"feature '{name}': per-sample weights need a combiner")
    if isinstance(value, tf.RaggedTensor):
        if value.ragged_rank != 1 or value.flat_values.shape.rank != 1:
            raise ValueError(f"feature '{name}': a RaggedTensor of ids is [B, None], this one is {value.shape}")
        ids, rows, num_rows = value.values, value.value_rowids(), value.nrows()
    elif isinstance(value, tf.SparseTensor):
        ids, rows, num_rows = value.values, value.indices[:, 0], value.dense_shape[0]
    elif value.shape.rank == 1:
        ids, rows, num_rows = value, None, tf.shape(value, tf.int64)[0]
    elif value.shape.rank == 2:
        shape = tf.shape(value, tf.int64)
        ids, rows, num_rows = tf.reshape(value, [-1]), tf.repeat(tf.range(shape[0]), shape[1]), shape[0]
    else:
        raise ValueError(f"feature '{name}': ids are [B], [B, L], ragged or sparse; this input is {value.shape}")
    return Bags(tf.cast(ids, tf.int64), _int64(rows), _int64(num_rows), _flat_weights(name, weights, value), value)


def check_ids(name: str, bags: Bags, vocabulary_size: int) -> tf.Tensor:
    """The ids, after an assertion that names the feature and the offending ids."""
    wrong = tf.boolean_mask(bags.ids, (bags.ids < 0) | (bags.ids >= vocabulary_size))
    message = f"feature {name}: ids outside its vocabulary, 0 to {vocabulary_size - 1}:"
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong], summarize=5)]):
        return tf.identity(bags.ids)


def combine(vectors: tf.Tensor, bags: Bags, feature: FeatureConfig) -> Any:
    """A feature's output from its ids' vectors [n, dim]: [B, dim], or with combiner None one vector per id in the shape
    that came in. An empty bag, and one whose weights sum to 0, is a zero vector."""
    if feature.combiner is None:
        return _restored(vectors, bags.like)
    weights = bags.weights
    if weights is not None:
        vectors *= tf.cast(weights, vectors.dtype)[:, tf.newaxis]
    if bags.rows is None and weights is None:
        return vectors
    rows = tf.range(bags.num_rows) if bags.rows is None else bags.rows
    sums = tf.math.unsorted_segment_sum(vectors, rows, bags.num_rows)
    if feature.combiner == "sum":
        return sums
    each = tf.ones_like(rows, tf.float32) if weights is None else weights
    if feature.combiner == "mean":
        norm = tf.math.unsorted_segment_sum(each, rows, bags.num_rows)
    else:
        norm = tf.sqrt(tf.math.unsorted_segment_sum(tf.square(each), rows, bags.num_rows))
    return tf.math.divide_no_nan(sums, tf.cast(norm, sums.dtype)[:, tf.newaxis])


def _flat_weights(name: str, weights: Any, ids: Any) -> tf.Tensor | None:
    if weights is None:
        return None
    if isinstance(ids, tf.RaggedTensor | tf.SparseTensor) and not isinstance(weights, type(ids)):
        raise ValueError(f"feature '{name}': weights come in the same form as the ids, a {type(ids).__name__}")
    if isinstance(ids, tf.RaggedTensor):
        flat, shapes = weights.flat_values, (weights.row_splits, ids.row_splits)
    elif isinstance(ids, tf.SparseTensor):
        flat, shapes = weights.values, (weights.indices, ids.indices)
    else:
        weights = tf.convert_to_tensor(weights)
        flat, shapes = tf.reshape(weights, [-1]), (tf.shape(weights), tf.shape(ids))
    theirs, ours = (tf.cast(shape, tf.int64) for shape in shapes)
    same = tf.reduce_all(tf.equal(tf.shape(theirs), tf.shape(ours)))
    same = tf.cond(same, lambda: tf.reduce_all(tf.equal(theirs, ours)), lambda: False)
    message = f"feature {name}: weights of the same shape as the ids are wanted, one for each id; these shapes differ:"
    with tf.control_dependencies([tf.debugging.Assert(same, [message, theirs, ours], summarize=8)]):
        return tf.cast(flat, tf.float32)


def _restored(vectors: tf.Tensor, like: Any) -> Any:
    if isinstance(like, tf.RaggedTensor):
        return like.with_flat_values(vectors)
    if isinstance(like, tf.SparseTensor):
        return tf.RaggedTensor.from_value_rowids(vectors, like.indices[:, 0], like.dense_shape[0])
    restored = tf.reshape(vectors, tf.concat([tf.shape(like), tf.shape(vectors)[1:]], axis=0))
    restored.set_shape([*like.shape, vectors.shape[1]])
    return restored


def _int64(value: tf.Tensor | None) -> tf.Tensor | None:
    return None if value is None else tf.cast(value, tf.int64)
