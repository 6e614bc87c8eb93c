"""A `inputs.stream.Stream` as a tf.data.Dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

import numpy as np

from foundation.tf import tf
from inputs.ragged import Ragged
from inputs.stream import RAGGED, Columns, Stream


def as_dataset(
    stream: Stream, epoch: int = 0, k: int = 0, rank: int = 0, world_size: int = 1, epochs: int | None = 1
) -> tf.data.Dataset:
    """Batches k, k + 1, ... of an epoch and all of those that follow, `epochs` in all; None: without end, for
    `fit(dataset, steps_per_epoch=len(stream))`, so that each epoch has its own order.

    Elements are dicts: "id" [B] int64, "dense" [B] float32, "ids" and "weights" RaggedTensor [B, None] with int64
    row_splits. A UserError of the stream comes as the TensorFlow error that wraps it: iterate the stream itself for the
    plain one.
    """
    layout = _Layout(stream.columns)

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        for number in count() if epochs is None else range(epochs):
            with stream.iterate(epoch + number, k if number == 0 else 0, rank, world_size) as ahead:
                yield from map(layout.pack, ahead)

    dataset = tf.data.Dataset.from_generator(batches, output_signature=layout.signature)
    return dataset.map(layout.unpack).prefetch(tf.data.AUTOTUNE)


class _Layout:
    """A batch as three flat arrays, for its way through `from_generator`, which spends some 0.1 ms on each array: all
    integers (ids, row_splits), all floats, and the lengths of the columns' parts in them, integers first."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        # of each part: its column, and whether it is that column's row_splits
        parts = [(name, splits) for name, kind in columns.items() for splits in (False, True)[: 1 + (kind in RAGGED)]]
        self._integers = [(name, splits) for name, splits in parts if splits or columns[name] in ("id", "ids")]
        self._floats = [part for part in parts if part not in self._integers]
        self.signature = (
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([len(parts)], tf.int64),
        )

    def pack(self, batch: Mapping[str, np.ndarray | Ragged]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        integers = [_part(batch[name], splits) for name, splits in self._integers]
        floats = [_part(batch[name], splits) for name, splits in self._floats]
        lengths = np.array([len(part) for part in (*integers, *floats)], np.int64)
        return (
            np.concatenate([np.empty(0, np.int64), *integers]),
            np.concatenate([np.empty(0, np.float32), *floats]),
            lengths,
        )

    def unpack(
        self, integers: tf.Tensor, floats: tf.Tensor, lengths: tf.Tensor
    ) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        count_integers = len(self._integers)
        tensors: dict[tuple[str, bool], tf.Tensor] = {}
        if self._integers:
            pieces = tf.split(integers, lengths[:count_integers], num=count_integers)
            tensors.update(zip(self._integers, pieces, strict=True))
        if self._floats:
            pieces = tf.split(floats, lengths[count_integers:], num=len(self._floats))
            tensors.update(zip(self._floats, pieces, strict=True))
        return {
            name: tf.RaggedTensor.from_row_splits(tensors[name, False], tensors[name, True], validate=False)
            if kind in RAGGED
            else tensors[name, False]
            for name, kind in self._columns.items()
        }


def _part(column: np.ndarray | Ragged, splits: bool) -> np.ndarray:
    if isinstance(column, Ragged):
        return column.row_splits if splits else column.values
    return column
