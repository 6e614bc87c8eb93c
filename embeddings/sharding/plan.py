"""The sharding plan: which rank holds which part of which table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["data_parallel", "table_wise", "row_wise", "column_wise", "table_row_wise", "hot_cold"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class TableSharding:
    """How one table is laid over ranks.

    kind: "data_parallel": a copy on every rank. "table_wise": whole, on one rank. "row_wise": its buckets of rows over
    all of `ranks`; "table_row_wise": the same over the ranks of one host. "column_wise": its columns cut into
    `columns`, a part on each of `ranks`. "hot_cold": its `hot_rows` most frequent rows copied to every rank, the rest
    row-wise: its first ones, as in a vocabulary in the order of frequency, or those of `hot_ids`, in rising order.
    ranks: who holds it, in order. columns: widths of column-wise parts, one for each of `ranks`; else empty.
    """

    table: str
    kind: Kind
    ranks: tuple[int, ...]
    columns: tuple[int, ...] = ()
    hot_rows: int = 0
    hot_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"table '{self.table}': no sharding type '{self.kind}'; known: {', '.join(KINDS)}")
        if not self.ranks or len(set(self.ranks)) != len(self.ranks):
            raise ValueError(f"table '{self.table}': ranks are {self.ranks}; each of one or more, once, is wanted")
        if self.kind == "table_wise" and len(self.ranks) != 1:
            raise ValueError(f"table '{self.table}': table_wise is on one rank, not on {self.ranks}")
        if (self.kind == "column_wise") != bool(self.columns) or (
            self.columns and len(self.columns) != len(self.ranks)
        ):
            raise ValueError(f"table '{self.table}': column_wise, and it alone, wants the columns of each of its ranks")
        if any(width < 1 for width in self.columns):
            raise ValueError(f"table '{self.table}': columns are {self.columns}; each part has at least one")
        if (self.kind == "hot_cold") != (self.hot_rows > 0):
            raise ValueError(f"table '{self.table}': hot_cold, and it alone, wants how many rows are hot")
        if self.hot_ids and (len(self.hot_ids) != self.hot_rows or list(self.hot_ids) != sorted(set(self.hot_ids))):
            raise ValueError(f"table '{self.table}': hot_ids are {self.hot_rows} ids in rising order, each once")


@dataclass(frozen=True)
class Shard:
    """What one rank holds of one table. rows: as many as it holds, a dynamic table's as expected. columns: [start,
    stop). replicated: other ranks hold the same. bytes: of rows and slot variables."""

    table: str
    kind: Kind
    rank: int
    rows: int
    columns: tuple[int, int]
    replicated: bool
    bytes: int


@dataclass(frozen=True)
class ShardingPlan:
    """A layout for every table of a layer, over `ranks` ranks. shards: the same told rank by rank, where a planner
    made it."""

    ranks: int
    tables: Mapping[str, TableSharding]
    shards: tuple[Shard, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name, table in self.tables.items():
            if name != table.table:
                raise ValueError(f"the plan calls table '{table.table}' '{name}'")
            beyond = [rank for rank in table.ranks if not 0 <= rank < self.ranks]
            if beyond:
                raise ValueError(f"table '{name}': no rank {beyond[0]}; the plan is for {self.ranks}")

    def document(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "ranks": self.ranks,
            "tables": [asdict(table) for table in self.tables.values()],
            "shards": [asdict(shard) for shard in self.shards],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ShardingPlan:
        def tupled(entry: Mapping[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}

        tables = [TableSharding(**tupled(entry)) for entry in document["tables"]]
        shards = tuple(Shard(**tupled(entry)) for entry in document.get("shards", ()))
        return cls(document["ranks"], {table.table: table for table in tables}, shards)
