"""A feature's input taken apart into flat ids, put together again around other ids, and pooled after the lookup."""

from __future__ import annotations

from typing import Any

from embeddings.bags import ids_and_weights
from embeddings.kernels.group import Bag
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
    wrong = tf.boolean_mask(ids, (ids < 0) | (ids >= vocabulary_size))
    message = f"feature {name}: ids outside its vocabulary, 0 to {vocabulary_size - 1}:"
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong], summarize=5)]):
        return tf.identity(ids)


def rows_of(bag: Bag) -> tf.Tensor:
    """[n] int64: the row of the batch that each of a bag's ids belongs to."""
    return tf.RaggedTensor.from_row_splits(bag.ids, bag.splits, validate=False).value_rowids()


def pooled(vectors: tf.Tensor, bag: Bag) -> tf.Tensor:
    """[B, dim] float32: one vector per id [n, dim], weighted and combined as ShardedEmbedding does. A bag that is
    empty, or whose weights sum to 0, is a zero vector.

    Raises:
      tf.errors.InvalidArgumentError: a weight is not finite; the feature is named.
    """
    vectors = tf.cast(vectors, tf.float32)
    if bag.weights is not None:
        vectors *= _finite(bag)[:, tf.newaxis]
    sums = tf.math.unsorted_segment_sum(vectors, rows_of(bag), tf.size(bag.splits) - 1)
    return sums * norms(bag)[:, tf.newaxis]


def norms(bag: Bag) -> tf.Tensor:
    """[B] float32: what a bag's sum is multiplied by: 1 ("sum"), 1 / sum of weights ("mean"), or 1 / root of the sum of
    their squares ("sqrtn"); 0 where that is 0."""
    bags = tf.size(bag.splits) - 1
    if bag.combiner == "sum":
        return tf.ones([bags])
    rows = rows_of(bag)
    weights = tf.ones_like(rows, tf.float32) if bag.weights is None else bag.weights
    if bag.combiner == "mean":
        return tf.math.reciprocal_no_nan(tf.math.unsorted_segment_sum(weights, rows, bags))
    squares = tf.math.unsorted_segment_sum(tf.square(weights), rows, bags)
    # the root's slope at 0 is infinite, and times the 0 above it NaN: such a bag has no slope
    some = squares > 0
    return tf.where(some, tf.math.rsqrt(tf.where(some, squares, 1.0)), 0.0)


def _finite(bag: Bag) -> tf.Tensor:
    finite = tf.math.is_finite(bag.weights)
    bad = tf.boolean_mask(bag.weights, tf.logical_not(finite))
    message = f"feature {bag.name}: weights must be finite:"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(finite), [message, bad], summarize=5)]):
        return tf.identity(bag.weights)
