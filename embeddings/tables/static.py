"""A table whose rows are all there from the start."""

from __future__ import annotations

from embeddings.config import TableConfig
from embeddings.hashing import table_key
from embeddings.kernels import kernels
from foundation.tf import tf


class StaticTable:
    """Rows [vocabulary_size, dim] and the optimizer's slot variables, plain variables that no Keras optimizer sees."""

    identities: tf.Variable | None = None  # a row's number is its id

    def __init__(self, config: TableConfig) -> None:
        assert config.vocabulary_size is not None
        self.config = config
        self.key = table_key(config.seed, config.name)
        make = kernels()
        dtype = tf.as_dtype(config.slot_precision)
        with tf.device("CPU:0"):  # where the kernels are: tables lie in the host's memory
            self.rows = make.new_rows(config)
            self.slots = {
                name: make.new_slot(
                    slot.shape(config.vocabulary_size, config.dim), slot.initial, dtype, f"{config.name}/{name}"
                )
                for name, slot in config.optimizer.slots.items()
            }
            self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name=f"{config.name}/updates")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """Everything a checkpoint must hold, by name."""
        return {"rows": self.rows, "updates": self.updates, **self.slots}
