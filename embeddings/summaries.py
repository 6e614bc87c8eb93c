"""What dynamic tables do, to TensorBoard."""

from __future__ import annotations

from typing import Any

from embeddings.layer import ShardedEmbedding
from foundation.tf import keras, tf


def write_counts(layer: ShardedEmbedding, step: int) -> None:
    """Writes `layer.counts()` to the default summary writer, as scalars `LAYER/TABLE/rows` and so on."""
    for table, counts in layer.counts().items():
        for name, value in counts.items():
            tf.summary.scalar(f"{layer.name}/{table}/{name}", value, step=step)


class TableCounts(keras.callbacks.Callback):
    """Writes the counts of a model's dynamic tables every so many batches, and at each epoch's end.

    log_dir: TensorBoard's folder. every: batches between two entries.
    """

    def __init__(self, log_dir: str, every: int = 100) -> None:
        super().__init__()
        if every < 1:
            raise ValueError("TableCounts: every is at least 1")
        self._writer = tf.summary.create_file_writer(str(log_dir))
        self._every, self._batches = every, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches += 1
        if self._batches % self._every == 0:
            self._write()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._write()

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()

    def _write(self) -> None:
        with self._writer.as_default():
            for layer in self.model.submodules:
                if isinstance(layer, ShardedEmbedding):
                    write_counts(layer, self._batches)
        self._writer.flush()
