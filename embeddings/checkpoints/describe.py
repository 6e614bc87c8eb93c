"""What saved tables hold, without reading a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embeddings.checkpoints.manifest import Saved, SavedPart, SavedTable
from embeddings.checkpoints.saved_rows import OF_IDS

_OF_IDS = ("ids", "bucket_starts", "counters", "counted", *OF_IDS)


@dataclass(frozen=True)
class TableFacts:
    """rows: of a dynamic table, those of its own ids. precision: of rows; slots: that of slot variables, by name.
    bytes: of all files. layout: how it lies over ranks, in words. updates: made so far. counts: a dynamic table's,
    summed over ranks, by name; {}: it is static."""

    name: str
    rows: int
    dim: int
    optimizer: str
    dynamic: bool
    precision: str
    slots: dict[str, str]
    bytes: int
    layout: str
    updates: int
    counts: dict[str, int]

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TablesFacts:
    """ranks: how many saved them."""

    ranks: int
    tables: list[TableFacts]


def describe_tables(folder: str | Path) -> TablesFacts:
    """What `save_tables` wrote.

    Raises:
      UserError: a manifest is missing, damaged or of a newer version.
    """
    saved = Saved.read(Path(folder))
    return TablesFacts(saved.ranks, [_facts(table, saved.parts_of(name)) for name, table in saved.tables.items()])


def _facts(table: SavedTable, parts: Sequence[SavedPart]) -> TableFacts:
    dynamic = table.vocabulary_size is None
    rows = table.vocabulary_size or 0
    if dynamic:  # of each id the part that has its first column
        rows = sum(part.arrays["ids"].shape[0] - 1 for part in parts if part.columns[0] == 0)
    counts: dict[str, int] = {}
    for part in parts if dynamic else ():
        for name, value in part.counts.items() if part.columns[0] == 0 else ():
            counts[name] = max(counts.get(name, 0), value) if name == "steps" else counts.get(name, 0) + value
    arrays = parts[0].arrays if parts else {}
    slots = {name: array.dtype for name, array in arrays.items() if name not in ("rows", *_OF_IDS)}
    return TableFacts(
        table.name,
        rows,
        table.dim,
        table.optimizer,
        dynamic,
        arrays["rows"].dtype if parts else "",
        slots,
        sum(array.bytes for part in parts for array in part.arrays.values()),
        _layout(table, parts),
        max((part.updates for part in parts), default=0),
        counts,
    )


def _layout(table: SavedTable, parts: Sequence[SavedPart]) -> str:
    cold = [part for part in parts if not part.hot]
    widths = {part.columns: part.columns[1] - part.columns[0] for part in cold}
    listed = {changes: [part for part in parts if part.hot and part.changes == changes] for changes in (False, True)}
    hot = sum(part.arrays["ids"].shape[0] - (table.vocabulary_size is None) for part in listed[False])
    changed = sum(part.arrays["ids"].shape[0] for part in listed[True])
    if len(widths) > 1:
        return f"columns {' + '.join(map(str, (widths[columns] for columns in sorted(widths))))}"
    words = "whole" if len(cold) == 1 else f"rows in {len(cold)} parts"
    words = f"{hot} hot rows, {words}" if hot else words
    return f"{words}, {changed} rows changed since" if listed[True] else words
