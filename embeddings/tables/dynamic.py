"""A table whose ids nobody listed beforehand: 64-bit ids straight from the log, each with a row of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embeddings.config import TableConfig
from embeddings.kernels import kernels, must_be_stock
from embeddings.tables.identity import COUNTS, IdPolicy
from foundation.tf import Trackable, tf

NO_ID = -(2**63)  # identity of row 0, for stochastic rounding


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A dynamic table made static. ids: [n] int64, rising. rows: [n + 1, dim] float32; row 0 is that of ids without a
    row of their own, row i + 1 that of ids[i]."""

    ids: np.ndarray
    rows: np.ndarray

    def places(self, ids: tf.Tensor) -> tf.Tensor:
        """Where in `rows` ids of any shape stand, in TensorFlow's own ops: for what is exported."""
        if not len(self.ids):
            return tf.zeros_like(ids, tf.int64)
        known = tf.constant(self.ids)
        wanted = tf.cast(ids, tf.int64)
        place = tf.searchsorted(known, tf.reshape(wanted, [-1]), out_type=tf.int64)
        place = tf.reshape(tf.minimum(place, len(self.ids) - 1), tf.shape(wanted))
        return tf.where(tf.equal(tf.gather(known, place), wanted), place + 1, 0)


class DynamicTable(Trackable):
    """Rows and slots that grow with the ids that come in training. Row 0 is shared by all ids that have no row: it
    begins as zeros, and learns from those that are not admitted. A new row begins with the initial values of its id.

    It saves itself in a checkpoint by id, whichever kernels hold it: the numbers of rows are not part of it.

    Or a shard of it, `config` being the shard's own; first_column: of the table, where the shard's first one stands.
    """

    def __init__(self, config: TableConfig, first_column: int = 0) -> None:
        self.config, self._first_column = config, first_column
        policy = IdPolicy.of(config)
        self.key = policy.key
        with tf.device("CPU:0"):  # where the kernels are: tables lie in the host's memory
            self.identities = growing(tf.constant([NO_ID], tf.int64), f"{config.name}/identities")
            self.rows = growing(tf.zeros((1, config.dim), config.precision), f"{config.name}/rows")
            self.slots = {
                name: growing(
                    tf.fill(slot.shape(1, config.dim), tf.cast(slot.initial, config.slot_precision)),
                    f"{config.name}/{name}",
                )
                for name, slot in config.optimizer.slots.items()
            }
            self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name=f"{config.name}/updates")
            self._ids = kernels().id_table(policy)

    def find(self, features: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The rows [n] int64 of each feature's ids [n] int64, 0 where an id has none.

        Raises:
          ValueError: what is traced is to be exported, which cannot hold it.
        """
        if must_be_stock():
            raise ValueError(
                f"table '{self.config.name}' is dynamic: what is exported holds static tables. Take its `vocabulary` "
                "(ShardedEmbedding.vocabulary), and look up in that"
            )
        return self._ids.find(features)

    def find_or_insert(self, features: Sequence[tf.Tensor], occurrences: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
        """The same in a training step: new ids get a row if they are admitted. occurrences: how often each id of each
        feature came, [n] int64; none: once."""
        assert not must_be_stock()
        slots = [(self.slots[name], slot.initial) for name, slot in self.config.optimizer.slots.items()]
        return self._ids.find_or_insert(
            features, self.identities, self.rows, slots, self.config.scale, occurrences, self._first_column
        )

    def note_update(self, rows: tf.Tensor) -> None:
        """Nothing: when its ids were last seen is counted as they are found."""

    def counts(self) -> dict[str, tf.Tensor]:
        """By name (COUNTS), [] int64 since the table began: training steps, rows now, ids inserted and evicted, and
        occurrences of ids that were rejected (not admitted, or no room)."""
        return dict(zip(COUNTS, tf.unstack(self._ids.counts(), len(COUNTS)), strict=True))

    def ids_and_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """(its ids [n] int64, rising; [n + 1] int64: row 0, then the row of each of them)."""
        state = self._ids.state()
        return state["ids"].numpy(), np.concatenate([[0], state["rows"].numpy()])

    def vocabulary(self) -> Vocabulary:
        """The table as it stands, made static."""
        ids, rows = self.ids_and_rows()
        return Vocabulary(ids, tf.cast(tf.gather(self.rows, rows), tf.float32).numpy())

    def id_state(self) -> dict[str, np.ndarray]:
        """All of its ids that a checkpoint must hold, and their rows: see `IdTable.state`."""
        return {name: value.numpy() for name, value in self._ids.state().items()}

    def begin_with(self, state: Mapping[str, np.ndarray]) -> None:
        """Becomes a table of the ids of a state, rows 1 on being theirs in the order given. Their rows and slots are
        zeros, yet to be written."""
        self._ids.restore({name: tf.constant(value) for name, value in state.items()})
        ids = state["ids"]
        kernels().empty([self.identities, self.rows, *self.slots.values()], len(ids) + 1)
        self.identities.scatter_update(tf.IndexedSlices(tf.constant([NO_ID], tf.int64), tf.constant([0])))
        self.identities.scatter_update(tf.IndexedSlices(ids, tf.range(1, len(ids) + 1)))

    @staticmethod
    def _by_id(variable: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
        return tf.gather(variable, tf.concat([tf.zeros([1], tf.int64), rows], 0))

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        state = self._ids.state()
        rows = state.pop("rows")
        variables = {"rows": self.rows, **self.slots}
        by_id = {f"variable-{name}": self._by_id(variable, rows) for name, variable in variables.items()}
        return {
            **{f"ids-{name}": value for name, value in state.items()},
            **by_id,
            "updates": self.updates.read_value(),
        }

    def _restore_from_tensors(self, restored: Mapping[str, tf.Tensor]) -> Any:
        state = {name.removeprefix("ids-"): value for name, value in restored.items() if name.startswith("ids-")}
        self._ids.restore(state)
        for name, variable in {"rows": self.rows, **self.slots}.items():
            variable.assign(restored[f"variable-{name}"])
        self.identities.assign(tf.concat([tf.constant([NO_ID], tf.int64), state["ids"]], 0))
        self.updates.assign(restored["updates"])
        return tf.no_op()


def growing(initial: tf.Tensor, name: str | None = None) -> tf.Variable:
    """A variable whose first dimension may change."""
    return tf.Variable(initial, trainable=False, shape=[None, *initial.shape[1:]], name=name)
