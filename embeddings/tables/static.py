"""A table whose rows are all there from the start."""

from __future__ import annotations

import numpy as np

from embeddings.config import TableConfig
from embeddings.hashing import table_key
from embeddings.kernels import kernels
from foundation.tf import tf


class StaticTable:
    """Rows [vocabulary_size, dim] and the optimizer's slot variables, plain variables that no Keras optimizer sees.

    Or a shard of them, `config` being the shard's own. ids: [vocabulary_size] int64, whose row each is; None: its
    number's. first_column: of the table, where the shard's first one stands.
    """

    def __init__(self, config: TableConfig, ids: np.ndarray | None = None, first_column: int = 0) -> None:
        assert config.vocabulary_size is not None
        self.config = config
        self.identities: tf.Variable | None = None  # a row's number is its id
        self.key = table_key(config.seed, config.name)
        make = kernels()
        dtype = tf.as_dtype(config.slot_precision)
        with tf.device("CPU:0"):  # where the kernels are: tables lie in the host's memory
            self.rows = make.new_rows(config, ids, first_column)
            if ids is not None and config.precision != "float32":  # stochastic rounding asks for it
                self.identities = tf.Variable(ids, trainable=False, name=f"{config.name}/identities")
            self.slots = {
                name: make.new_slot(
                    slot.shape(config.vocabulary_size, config.dim), slot.initial, dtype, f"{config.name}/{name}"
                )
                for name, slot in config.optimizer.slots.items()
            }
            self.last_update: tf.Variable | None = None  # of each row
            if config.track_updates:
                untouched = tf.zeros([config.vocabulary_size], tf.int64)
                self.last_update = tf.Variable(untouched, trainable=False, name=f"{config.name}/last_update")
            self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name=f"{config.name}/updates")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """Everything a checkpoint must hold, by name."""
        tracked = {} if self.last_update is None else {"last_update": self.last_update}
        return {"rows": self.rows, "updates": self.updates, **self.slots, **tracked}

    def note_update(self, rows: tf.Tensor) -> None:
        """That the update just made touched `rows` [n] int64."""
        if self.last_update is not None:
            now = tf.fill(tf.shape(rows), self.updates.read_value())
            self.last_update.scatter_update(tf.IndexedSlices(now, rows))
