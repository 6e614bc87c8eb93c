"""A `inputs.stream.Stream` as a tf.data.Dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

import numpy as np

from foundation.tf import tf
from inputs.ragged import Ragged
from inputs.stream import RAGGED, Stream


def as_dataset(
    stream: Stream, epoch: int = 0, k: int = 0, rank: int = 0, world_size: int = 1, epochs: int | None = 1
) -> tf.data.Dataset:
    """Batches k, k + 1, ... of an epoch and all of those that follow, `epochs` in all; None: without end, for
    `fit(dataset, steps_per_epoch=len(stream))`, so that each epoch has its own order.

    Elements are dicts: "id" [B] int64, "dense" [B] float32, "ids" and "weights" RaggedTensor [B, None] with int64
    row_splits. A UserError of the stream comes as the TensorFlow error that wraps it: iterate the stream itself for the
    plain one.
    """
    scalars = {name: kind for name, kind in stream.columns.items() if kind not in RAGGED}
    ragged = {name: kind for name, kind in stream.columns.items() if kind in RAGGED}

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        # flat arrays: a RaggedTensor built in Python costs a trip through Python for each of its parts
        for number in count() if epochs is None else range(epochs):
            with stream.iterate(epoch + number, k if number == 0 else 0, rank, world_size) as ahead:
                for batch in ahead:
                    yield tuple(_parts([batch[name] for name in (*scalars, *ragged)]))

    def named(*parts: tf.Tensor) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        values, splits = parts[len(scalars) :: 2], parts[len(scalars) + 1 :: 2]
        tensors = dict(zip(scalars, parts[: len(scalars)], strict=True))
        for name, flat, row_splits in zip(ragged, values, splits, strict=True):
            tensors[name] = tf.RaggedTensor.from_row_splits(flat, row_splits, validate=False)
        return {name: tensors[name] for name in stream.columns}

    dtypes = {"id": tf.int64, "ids": tf.int64, "dense": tf.float32, "weights": tf.float32}
    signature = [tf.TensorSpec([None], dtypes[kind]) for kind in scalars.values()]
    for kind in ragged.values():
        signature += [tf.TensorSpec([None], dtypes[kind]), tf.TensorSpec([None], tf.int64)]
    return tf.data.Dataset.from_generator(batches, output_signature=tuple(signature)).map(named)


def _parts(columns: Iterable[np.ndarray | Ragged]) -> Iterator[np.ndarray]:
    for column in columns:
        if isinstance(column, Ragged):
            yield column.values
            yield column.row_splits
        else:
            yield column
