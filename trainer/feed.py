"""Numpy batches as a tf.data iterator that a `tf.function` can take several steps from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foundation.tensors import to_tensors
from foundation.tf import tf

READ_AHEAD = 4  # batches of tensors waiting beside those the reader thread holds


def feed(
    batches: Iterator[Mapping[str, Any]], fixed_shapes: bool = False
) -> Iterator[dict[str, tf.Tensor | tf.RaggedTensor]]:
    """An iterator over the same batches as tensors, usable inside a `tf.function`.

    The first batch fixes names, dtypes and which values are ragged; leading dimensions may differ from batch to batch,
    unless with fixed_shapes: all batches have as many rows then, and TensorFlow knows how many.
    """
    first = to_tensors(next(batches))

    def every() -> Iterator[dict[str, Any]]:
        yield first
        for batch in batches:
            yield to_tensors(batch)

    signature = {name: _spec(value, fixed_shapes) for name, value in first.items()}
    return iter(tf.data.Dataset.from_generator(every, output_signature=signature).prefetch(READ_AHEAD))


def _spec(value: tf.Tensor | tf.RaggedTensor, fixed: bool) -> tf.TypeSpec:
    rows = value.shape[0] if fixed else None
    if isinstance(value, tf.RaggedTensor):
        return tf.RaggedTensorSpec([rows, None], value.dtype, ragged_rank=1, row_splits_dtype=value.row_splits.dtype)
    return tf.TensorSpec([rows, *value.shape[1:]], value.dtype)
