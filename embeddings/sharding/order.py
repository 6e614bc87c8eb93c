"""Rows of several streams to and from several ranks, put in the order that is wanted."""

from __future__ import annotations

from foundation.tensors import ranges
from foundation.tf import tf


def by_stream(rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Rows that stand rank by rank, within each stream by stream, put stream by stream. sizes: [ranks, streams]."""
    return _transposed(rows, sizes)


def by_rank(rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The way back. sizes: [ranks, streams]."""
    return _transposed(rows, tf.transpose(sizes))


def _transposed(rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    if 1 in sizes.shape:
        return rows
    starts = tf.reshape(tf.cumsum(tf.reshape(sizes, [-1]), exclusive=True), tf.shape(sizes))
    return tf.gather(rows, ranges(tf.transpose(starts), tf.transpose(sizes)))
