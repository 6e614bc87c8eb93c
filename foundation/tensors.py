"""Batches of numpy arrays as tensors, and places in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from foundation.tf import tf


def to_tensors(batch: Mapping[str, Any]) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """The same names, each array a Tensor and each ragged value (anything with `.values` and `.row_splits`) a
    RaggedTensor."""
    return {name: to_tensor(value) for name, value in batch.items()}


def to_tensor(value: Any) -> tf.Tensor | tf.RaggedTensor:
    """One array [..] as a Tensor, or one ragged value as a RaggedTensor [rows, None]."""
    if hasattr(value, "row_splits"):
        return tf.RaggedTensor.from_row_splits(
            tf.convert_to_tensor(value.values), tf.convert_to_tensor(value.row_splits), validate=False
        )
    return tf.convert_to_tensor(np.asarray(value))


def ranges(starts: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """[sum(sizes)] int64: start, start + 1, ... of each of the ranges, one behind the other. starts, sizes: int64 of
    one shape."""
    starts, sizes = tf.reshape(starts, [-1]), tf.reshape(sizes, [-1])
    return tf.range(tf.reduce_sum(sizes)) + tf.repeat(starts - tf.cumsum(sizes, exclusive=True), sizes)
