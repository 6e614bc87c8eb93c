"""Tables restored under an optimizer of another kind than they were saved under: rows come along; a slot variable is
converted where that is faithful, and else begins at its initial value.

  accumulator   Adagrad and FTRL: the same sums of squared gradients. From them to RowWiseAdagrad: the mean over a row's
                columns, which is what it would have summed. From it to them: the row's number for each column.
  linear        of FTRL: that which gives the row as it is (McMahan et al., KDD 2013, algorithm 1, solved for z); at its
                initial value the first step would forget the row.
  updates       0 where Adam's moments begin anew, as its correction of their bias counts from there; else they go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embeddings.checkpoints.manifest import Saved
from embeddings.checkpoints.saved_rows import SavedRows, opened
from embeddings.checkpoints.variables import put, rows_at_once, rows_of, stretches, taken
from embeddings.config import TableConfig
from embeddings.optimizers import FTRL, Adam
from embeddings.sharding.held import HeldShard
from embeddings.tables.dynamic import NO_ID, DynamicTable
from embeddings.tables.static import StaticTable
from foundation.progress import say
from foundation.tf import tf

_SUMS = ("Adagrad", "FTRL")  # whose accumulators have a sum of squared gradients for each number
_SUMS_OF_ROWS = "RowWiseAdagrad"  # whose have a mean one for each row


@dataclass(frozen=True)
class OptimizerChange:
    """Of one table. anew: its slot variables that are not read as they are."""

    config: TableConfig
    saved: Saved
    anew: tuple[str, ...]

    def begin_slots(self, shard: HeldShard) -> None:
        """Gives a shard whose rows were restored the slot variables `anew`."""
        slots = self.config.optimizer.slots
        for name in self.anew:
            variable = shard.held.slots[name]
            if name == "accumulator" and self._converts:
                self._convert(shard, variable)
            elif name == "linear":
                self._linear(shard, variable)
            else:
                for stretch in _stretches(variable):
                    shape = (stretch.stop - stretch.start, *variable.shape[1:])
                    put(variable, _numbers(stretch), np.full(shape, slots[name].initial, np.float32))
        if isinstance(self.config.optimizer, Adam):
            shard.held.updates.assign(0)
            if isinstance(shard.held, StaticTable) and shard.held.last_update is not None:
                shard.held.last_update.assign(tf.zeros_like(shard.held.last_update))

    @property
    def _converts(self) -> bool:
        before, now = self._optimizers
        return (before in _SUMS and now == _SUMS_OF_ROWS) or (before == _SUMS_OF_ROWS and now in _SUMS)

    @property
    def _optimizers(self) -> tuple[str, str]:
        return self.saved.tables[self.config.name].optimizer, type(self.config.optimizer).__name__

    def _convert(self, shard: HeldShard, variable: tf.Variable) -> None:
        rows = opened(self.saved, self.config.name)
        ids, numbers = _ids_and_numbers(shard)
        for stretch in stretches(len(ids), rows_at_once(variable)):
            put(variable, numbers[stretch], _accumulated(rows, ids[stretch], variable))

    def _linear(self, shard: HeldShard, variable: tf.Variable) -> None:
        optimizer = self.config.optimizer
        assert isinstance(optimizer, FTRL)
        for stretch in _stretches(variable):
            numbers = _numbers(stretch)
            row, squares = (
                taken(of, numbers).astype(np.float32) for of in (shard.held.rows, shard.held.slots["accumulator"])
            )
            strength = (optimizer.beta + np.sqrt(squares)) / np.float32(optimizer.learning_rate) + optimizer.l2
            put(variable, numbers, -row * strength - np.sign(row) * np.float32(optimizer.l1))

    def told(self) -> str:
        """In one line."""
        before, now = self._optimizers
        begun = [name for name in self.anew if not (name == "linear" or (name == "accumulator" and self._converts))]
        converted = [name for name in self.config.optimizer.slots if name not in begun]
        words = [f"table '{self.config.name}': saved under {before}, restored under {now}: rows come along"]
        words += [f"{', '.join(converted)} converted"] if converted else []
        words += [f"{', '.join(begun)} begin anew"] if begun else []
        return "; ".join(words)


def change_of(saved: Saved, config: TableConfig) -> OptimizerChange | None:
    """What becomes of a table's slot variables, said in one line; None: the optimizer is of the same kind."""
    before, now = saved.tables[config.name].optimizer, type(config.optimizer).__name__
    if before == now:
        return None
    same = ("accumulator",) if before in _SUMS and now in _SUMS else ()
    change = OptimizerChange(config, saved, tuple(name for name in config.optimizer.slots if name not in same))
    say(change.told())
    return change


def _accumulated(rows: SavedRows, ids: np.ndarray, variable: tf.Variable) -> np.ndarray:
    saved = rows.read("accumulator", ids).astype(np.float32)
    if saved.ndim == 2:
        return saved.mean(1, dtype=np.float32)
    return np.repeat(saved[:, np.newaxis], int(variable.shape[1]), 1)


def _ids_and_numbers(shard: HeldShard) -> tuple[np.ndarray, np.ndarray]:
    """(the id of each row that a shard holds, its number) [n] int64 each."""
    if isinstance(shard.held, DynamicTable):
        ids, numbers = shard.held.ids_and_rows()
        return np.concatenate([[NO_ID], ids]), numbers
    ids = shard.ids_of_rows()
    return ids, np.arange(len(ids))


def _stretches(variable: tf.Variable) -> Iterator[slice]:
    return stretches(rows_of(variable), rows_at_once(variable))


def _numbers(stretch: slice) -> np.ndarray:
    return np.arange(stretch.start, stretch.stop)
