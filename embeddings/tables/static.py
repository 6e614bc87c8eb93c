"""A table whose rows are all there from the start."""

from __future__ import annotations

from embeddings.config import TableConfig
from embeddings.kernels import kernels
from foundation.tf import tf


class StaticTable:
    """Rows [vocabulary_size, dim] float32 and the optimizer's slot variables, plain variables that no Keras optimizer
    sees."""

    def __init__(self, config: TableConfig) -> None:
        self.config = config
        make = kernels()
        self.rows = make.new_rows(config)
        shape = config.optimizer.slot_shape
        self.slots = {
            slot: make.new_slot(shape(config.vocabulary_size, config.dim), initial, f"{config.name}/{slot}")
            for slot, initial in config.optimizer.slots.items()
        }
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name=f"{config.name}/updates")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """Everything a checkpoint must hold, by name."""
        return {"rows": self.rows, "updates": self.updates, **self.slots}

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """[n, dim] rows of `ids` [n] int64."""
        return tf.gather(self.rows, ids)

    def apply(self, ids: tf.Tensor, gradient: tf.Tensor) -> None:
        """One optimizer step. ids: [u] int64, distinct; gradient: [u, dim] float32, summed over their occurrences."""
        self.config.optimizer.apply(self.rows, self.slots, ids, gradient, self.updates.read_value())
        self.updates.assign_add(1)
