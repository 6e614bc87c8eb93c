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
    """Writes the counts of a model's dynamic tables every so many steps of its optimizer, and at each epoch's end.

    log_dir: TensorBoard's folder. every: steps from one entry to the next, at least.
    """

    def __init__(self, log_dir: str, every: int = 100) -> None:
        super().__init__()
        if every < 1:
            raise ValueError("TableCounts: every is at least 1")
        self._log_dir, self._every, self._written = str(log_dir), every, 0
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._writer, self._written = tf.summary.create_file_writer(self._log_dir), self._step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._step() >= self._written + self._every:
            self._write()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._step() > self._written:
            self._write()

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()

    def _step(self) -> int:
        return int(self.model.optimizer.iterations)

    def _write(self) -> None:
        self._written = self._step()
        with self._writer.as_default():
            for layer in self.model.submodules:
                if isinstance(layer, ShardedEmbedding):
                    write_counts(layer, self._written)
        self._writer.flush()
