"""Lookups and updates of tables that are all here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embeddings.kernels import kernels
from embeddings.kernels.group import Bag, TableGroup, grouped
from embeddings.tables.dynamic import DynamicTable
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.kernels.group import Table


@dataclass(frozen=True)
class Numbered:
    """A step's bags, their ids the numbers of rows, by groups of tables; and where each stands: (group, place)."""

    groups: list[tuple[TableGroup, list[Bag]]]
    places: list[tuple[int, int]]

    def of(self, bag: int) -> tuple[TableGroup, Bag]:
        """A bag, by its place among those of the step."""
        group, place = self.places[bag]
        return self.groups[group][0], self.groups[group][1][place]


class LocalTables:
    """The tables of one process, with the interface of `exchange.Exchange`. A bag's `table` is a place among them."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = list(tables)
        self._groups = grouped(self._tables)
        self._place = {
            id(table): (g, place) for g, group in enumerate(self._groups) for place, table in enumerate(group.tables)
        }

    def input_dist(self, bags: list[Bag], inserts: bool) -> Numbered:
        """Ids become the numbers of rows. inserts: new ids of dynamic tables get one; a table's features are one step
        of it, so they are looked up together."""
        asked: list[list[Bag]] = [[] for _ in self._groups]
        places = []
        for bag in bags:
            group, place = self._place[id(self._tables[bag.table])]
            places.append((group, len(asked[group])))
            asked[group].append(replace(bag, table=place))
        used = [group for group, of_group in enumerate(asked) if of_group]
        groups = [(self._groups[group], _numbered(self._groups[group], asked[group], inserts)) for group in used]
        return Numbered(groups, [(used.index(group), place) for group, place in places])

    def output_dist(self, numbered: Numbered, bags: list[Bag]) -> list[tf.Tensor]:
        """[B, dim] of each bag."""
        pooled = [kernels().lookup(group, asked) for group, asked in numbered.groups]
        return [pooled[group][place] for group, place in numbered.places]

    def update(self, numbered: Numbered, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        """One step of every table that was asked for: gradients [B, dim] of the outputs, summed by row."""
        for (group, asked), of_group in zip(numbered.groups, by_group(numbered, gradients), strict=True):
            kernels().update(group, asked, of_group)
            for bag in asked:
                group.tables[bag.table].note_update(bag.ids)


def by_group(numbered: Numbered, values: list[tf.Tensor]) -> list[list[tf.Tensor]]:
    """A value for each bag, group by group."""
    grouped_values: list[list[tf.Tensor]] = [[] for _ in numbered.groups]
    for (group, _), value in zip(numbered.places, values, strict=True):
        grouped_values[group].append(value)
    return grouped_values


def _numbered(group: TableGroup, bags: list[Bag], inserts: bool) -> list[Bag]:
    numbered = list(bags)
    for place, table in enumerate(group.tables):
        if isinstance(table, DynamicTable) and (chosen := [b for b, bag in enumerate(bags) if bag.table == place]):
            number = table.find_or_insert if inserts else table.find
            for b, rows in zip(chosen, number([bags[b].ids for b in chosen]), strict=True):
                numbered[b] = replace(bags[b], ids=rows)
    return numbered
