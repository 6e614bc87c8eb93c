"""A table whose rows are all there from the start."""

from __future__ import annotations

from embeddings.config import TableConfig
from embeddings.hashing import initial_rows, table_key
from foundation.tf import tf

_BYTES_PER_CHUNK = 1 << 26


class StaticTable:
    """Rows [vocabulary_size, dim] float32 and the optimizer's slot variables, plain variables that no Keras optimizer
    sees."""

    def __init__(self, config: TableConfig) -> None:
        self.config = config
        self.rows = tf.Variable(
            tf.zeros((config.vocabulary_size, config.dim)), trainable=False, name=f"{config.name}/rows"
        )
        self._fill()
        self.slots = {
            slot: tf.Variable(
                tf.fill(config.optimizer.slot_shape(config.vocabulary_size, config.dim), initial),
                trainable=False,
                name=f"{config.name}/{slot}",
            )
            for slot, initial in config.optimizer.slots.items()
        }
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name=f"{config.name}/updates")

    def _fill(self) -> None:
        """Writes initial values chunk by chunk, so that no second copy of the table is ever held."""
        config, key = self.config, table_key(self.config.seed, self.config.name)
        step = max(_BYTES_PER_CHUNK // (8 * config.dim), 1)
        for start in range(0, config.vocabulary_size, step):
            ids = tf.range(start, min(start + step, config.vocabulary_size), dtype=tf.int64)
            self.rows.scatter_update(tf.IndexedSlices(initial_rows(ids, config.dim, key, config.scale), ids))

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
