"""A bag's vectors made one, and what must hold before, in TensorFlow's own ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embeddings.kernels.group import Bag
from foundation.tf import tf


def pooled(vectors: tf.Tensor, bag: Bag) -> tf.Tensor:
    """[B, dim] float32: one vector per id [n, dim], weighted and combined. A bag that is empty, or whose weights sum to
    0, is a zero vector. Without splits every id is a bag of its own: the vectors as they are."""
    if bag.splits is None:
        return vectors
    if bag.weights is not None:
        vectors *= bag.weights[:, tf.newaxis]
    sums = tf.math.unsorted_segment_sum(vectors, rows_of_ids(bag.splits), tf.size(bag.splits) - 1)
    return sums if bag.combiner == "sum" else sums * norms(bag)[:, tf.newaxis]


def rows_of_ids(splits: tf.Tensor) -> tf.Tensor:
    """[n] int64: the row of the batch that each id belongs to, rows beginning at `splits` [B + 1]."""
    return tf.repeat(tf.range(tf.size(splits, tf.int64) - 1), splits[1:] - splits[:-1])


def norms(bag: Bag) -> tf.Tensor:
    """[B] float32: what a bag's sum is multiplied by: 1 ("sum"), 1 / sum of weights ("mean"), or 1 / root of the sum of
    their squares ("sqrtn"); 0 where that is 0."""
    bags = tf.size(bag.splits) - 1
    if bag.combiner == "sum":
        return tf.ones([bags])
    rows = rows_of_ids(bag.splits)
    weights = tf.ones_like(rows, tf.float32) if bag.weights is None else bag.weights
    if bag.combiner == "mean":
        return tf.math.reciprocal_no_nan(tf.math.unsorted_segment_sum(weights, rows, bags))
    squares = tf.math.unsorted_segment_sum(tf.square(weights), rows, bags)
    # the root's slope at 0 is infinite, and times the 0 above it NaN: such a bag has no slope
    some = squares > 0
    return tf.where(some, tf.math.reciprocal_no_nan(tf.sqrt(tf.where(some, squares, 1.0))), 0.0)


def checks_of(bags: Sequence[Bag], sizes: Sequence[int | None]) -> list[tf.Operation]:
    """Assertions that ids are inside their vocabularies and weights finite. sizes: of the vocabularies of the tables
    that a bag's `table` is a place among; None: any id is."""
    checks = []
    for bag in bags:
        size = sizes[bag.table]
        if size is not None:
            checks.append(assert_inside(bag.name, bag.ids, size))
        if bag.weights is not None:
            checks.append(assert_finite(bag))
    return [check for check in checks if check is not None]


def assert_inside(name: str, ids: tf.Tensor, vocabulary_size: int) -> Any:
    """An assertion that a feature's ids [n] int64 are in 0..vocabulary_size-1."""
    wrong = tf.boolean_mask(ids, (ids < 0) | (ids >= vocabulary_size))
    message = f"feature {name}: ids outside its vocabulary, 0 to {vocabulary_size - 1}:"
    return tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong], summarize=5)


def assert_finite(bag: Bag) -> Any:
    """An assertion that a bag's weights are finite."""
    finite = tf.math.is_finite(bag.weights)
    message = f"feature {bag.name}: weights must be finite:"
    bad = tf.boolean_mask(bag.weights, tf.logical_not(finite))
    return tf.debugging.Assert(tf.reduce_all(finite), [message, bad], summarize=5)


def checks_of_splits(bag: Bag) -> list[tf.Operation]:
    """An assertion that a bag's splits rise from 0 to the number of its ids."""
    if bag.splits is None:
        return []
    good = tf.reduce_all(bag.splits[1:] >= bag.splits[:-1])
    good &= tf.equal(bag.splits[0], 0) & tf.equal(bag.splits[-1], tf.size(bag.ids, tf.int64))
    message = f"feature {bag.name}: row_splits must rise from 0 to the number of ids"
    check = tf.debugging.Assert(good, [message, bag.splits], summarize=8)
    return [] if check is None else [check]
