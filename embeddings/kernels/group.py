"""What a kernel works on: tables of one width and optimizer, and features as bags of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from embeddings.config import Combiner
from embeddings.optimizers import SparseOptimizer
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.tables.dynamic import DynamicTable
    from embeddings.tables.static import StaticTable

    Table: TypeAlias = StaticTable | DynamicTable


@dataclass(frozen=True)
class Bag:
    """One feature's ids. name: for messages. table: its place in the group. ids: [n] int64, to a kernel the numbers of
    rows (of a static table the same). splits: [B + 1] int64,
    where each bag's ids begin and the last one's end; None: every id is a bag of its own. weights: [n] float32, or
    None: all 1. combiner: None gives one vector per id."""

    name: str
    table: int
    ids: tf.Tensor
    splits: tf.Tensor | None
    weights: tf.Tensor | None
    combiner: Combiner | None


@dataclass(frozen=True)
class TableGroup:
    """Tables that one call of a kernel can serve: static or dynamic, of one width and precision, under one kind of
    optimizer."""

    tables: tuple[Table, ...]

    @property
    def dim(self) -> int:
        return self.tables[0].config.dim

    @property
    def optimizer(self) -> type[SparseOptimizer]:
        return type(self.tables[0].config.optimizer)


def grouped(tables: Sequence[Table]) -> list[TableGroup]:
    """Every table in one group, in the order of their first tables."""
    groups: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        config = table.config
        alike = (config.dim, config.precision, config.slot_precision, type(config.optimizer), type(table))
        groups.setdefault(alike, []).append(table)
    return [TableGroup(tuple(members)) for members in groups.values()]
