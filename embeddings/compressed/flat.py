"""A feature's input taken apart into flat ids, and put together again around other ids."""

from __future__ import annotations

from typing import Any

from embeddings.bags import ids_and_weights
from embeddings.pooling import assert_inside
from foundation.tf import tf


def flat_ids(name: str, value: Any) -> tf.Tensor:
    """[n] int64: the ids of a feature's input in any form, row by row.

    Raises:
      TypeError: they are not integers.
    """
    ids, _ = ids_and_weights(value)
    if not ids.dtype.is_integer:
        raise TypeError(f"feature '{name}': ids are {ids.dtype.name}; an integer dtype is wanted")
    if isinstance(ids, tf.RaggedTensor):
        ids = ids.flat_values
    elif isinstance(ids, tf.SparseTensor):
        ids = ids.values
    return tf.cast(tf.reshape(ids, [-1]), tf.int64)


def with_ids(value: Any, flat: tf.Tensor) -> Any:
    """A feature's input with other ids [n] in the places of its own, its weights as they are."""
    ids, weights = ids_and_weights(value)
    if isinstance(ids, tf.RaggedTensor):
        ids = ids.with_flat_values(flat)
    elif isinstance(ids, tf.SparseTensor):
        ids = tf.SparseTensor(ids.indices, flat, ids.dense_shape)
    else:
        ids = tf.ensure_shape(tf.reshape(flat, tf.shape(ids)), ids.shape)
    return ids if weights is None else (ids, weights)


def inside(name: str, ids: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
    """The ids [n] int64 as they are.

    Raises:
      tf.errors.InvalidArgumentError: one is outside 0..vocabulary_size-1; the feature is named.
    """
    with tf.control_dependencies([assert_inside(name, ids, vocabulary_size)]):
        return tf.identity(ids)
