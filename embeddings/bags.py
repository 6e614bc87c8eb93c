"""A feature's input, whatever its form, as a flat bag of ids; and one vector per id in the form they came in."""

from __future__ import annotations

from typing import Any

from embeddings.config import FeatureConfig
from embeddings.kernels.group import Bag
from foundation.tf import tf


def bag_of(name: str, value: Any, feature: FeatureConfig, table: int) -> Bag:
    """The bags of one feature's input, `table` being the place of its table in a group.

    value: ids [B], [B, L], RaggedTensor or SparseTensor (row by row) of any integer dtype, or a pair (ids, weights) of
    one form and shape.

    Raises:
      TypeError, ValueError: ids are not integers, or the shape is none of these.
      tf.errors.InvalidArgumentError: weights do not have the ids' shape, or a SparseTensor's rows are out of order.
    """
    value, weights = ids_and_weights(value)
    if not value.dtype.is_integer:
        raise TypeError(f"feature '{name}': ids are {value.dtype.name}; an integer dtype is wanted")
    if weights is not None and feature.combiner is None:
        raise ValueError(f"feature '{name}': per-sample weights need a combiner")
    if isinstance(value, tf.RaggedTensor):
        if value.ragged_rank != 1 or value.flat_values.shape.rank != 1:
            raise ValueError(f"feature '{name}': a RaggedTensor of ids is [B, None], this one is {value.shape}")
        ids, splits = value.values, value.row_splits
    elif isinstance(value, tf.SparseTensor):
        ids, splits = value.values, _splits_of_sparse(name, value)
    elif value.shape.rank == 1:
        # a weighted id is a bag of one: its combiner has something to divide by
        ids, splits = value, None if weights is None else tf.range(tf.size(value, tf.int64) + 1)
    elif value.shape.rank == 2:
        shape = tf.shape(value, tf.int64)
        ids, splits = tf.reshape(value, [-1]), tf.range(shape[0] + 1) * shape[1]
    else:
        raise ValueError(f"feature '{name}': ids are [B], [B, L], ragged or sparse; this input is {value.shape}")
    if feature.combiner is None:
        splits = None
    flat_weights = _flat_weights(name, weights, value)
    return Bag(name, table, _int64(ids), _int64(splits), flat_weights, feature.combiner)


def ids_and_weights(value: Any) -> tuple[Any, Any]:
    """A feature's input as (ids, weights or None), ids a tensor of some kind."""
    weights = None
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value, tf.SparseTensor):
        value, weights = value
    if not isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        value = tf.convert_to_tensor(value)
    return value, weights


def in_shape_of(value: Any, vectors: tf.Tensor) -> Any:
    """One vector per id [n, dim] in the shape, ragged or dense, that the ids came in."""
    value, _ = ids_and_weights(value)
    if isinstance(value, tf.RaggedTensor):
        return value.with_flat_values(vectors)
    if isinstance(value, tf.SparseTensor):
        return tf.RaggedTensor.from_value_rowids(vectors, value.indices[:, 0], value.dense_shape[0])
    restored = tf.reshape(vectors, tf.concat([tf.shape(value), tf.shape(vectors)[1:]], axis=0))
    restored.set_shape([*value.shape, vectors.shape[1]])
    return restored


def _splits_of_sparse(name: str, value: tf.SparseTensor) -> tf.Tensor:
    rows = value.indices[:, 0]
    ordered = tf.reduce_all(rows[1:] >= rows[:-1])
    message = f"feature {name}: a SparseTensor's values stand row by row; these rows are out of order:"
    with tf.control_dependencies([tf.debugging.Assert(ordered, [message, rows], summarize=8)]):
        return tf.searchsorted(rows, tf.range(value.dense_shape[0] + 1), out_type=tf.int64)


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


def _int64(value: tf.Tensor | None) -> tf.Tensor | None:
    return None if value is None else tf.cast(value, tf.int64)
