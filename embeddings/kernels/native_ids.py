"""The compiled id table behind the `IdTable` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from embeddings.hashing import signed
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.tables.identity import IdPolicy

_STATE = ("ids", "rows", "frequencies", "last_seen", "counters", "counted", "counts")


class NativeIdTable:
    """`module`: the loaded library; its id_ops.cc says how it works. The table lives as long as its handle."""

    def __init__(self, module: Any, policy: IdPolicy) -> None:
        self._module = module
        with tf.init_scope():
            self._handle = module.headrace_id_table(**{**asdict(policy), "key": signed(policy.key)})

    def find(self, features: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As `IdTable.find`."""
        return _shaped(self._module.headrace_find(table=self._handle, ids=list(features)), features)

    def find_or_insert(
        self,
        features: Sequence[tf.Tensor],
        identities: tf.Variable,
        rows: tf.Variable,
        slots: Sequence[tuple[tf.Variable, float]],
        scale: float,
        occurrences: Sequence[tf.Tensor] = (),
        first_column: int = 0,
    ) -> list[tf.Tensor]:
        """As `IdTable.find_or_insert`."""
        found = self._module.headrace_find_or_insert(
            table=self._handle,
            variables=[variable.handle for variable in (identities, rows, *(slot for slot, _ in slots))],
            ids=list(features),
            occurrences=list(occurrences),
            scale=scale,
            first_column=first_column,
            slots=[initial for _, initial in slots],
        )
        return _shaped(found, features)

    def counts(self) -> tf.Tensor:
        """As `IdTable.counts`."""
        return self._module.headrace_id_counts(table=self._handle)

    def state(self) -> dict[str, tf.Tensor]:
        """As `IdTable.state`."""
        return dict(zip(_STATE, self._module.headrace_id_state(table=self._handle), strict=True))

    def restore(self, state: Mapping[str, tf.Tensor]) -> None:
        """As `IdTable.restore`."""
        told = {name: state[name] for name in _STATE if name != "rows"}
        self._module.headrace_restore_ids(table=self._handle, **told)


def _shaped(rows: list[tf.Tensor], features: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    for row, ids in zip(rows, features, strict=True):
        row.set_shape(ids.shape)
    return rows
