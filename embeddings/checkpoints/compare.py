"""Two checkpoints' tables compared by id, whatever ranks, plans and precisions they were saved under."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.checkpoints.manifest import Saved
from embeddings.checkpoints.saved_rows import SavedDynamicRows, SavedRows, opened
from embeddings.tables.dynamic import NO_ID


@dataclass
class Difference:
    """Of two arrays of numbers: rows: how many were compared; differ: in how many a number is another. absolute: the
    largest |a - b|; relative: the largest |a - b| / max(|a|, |b|); infinite where one alone is not a number."""

    rows: int = 0
    differ: int = 0
    absolute: float = 0.0
    relative: float = 0.0

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Counts rows [n, ...] of both."""
        a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (one, other))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        self.rows += len(a)
        self.differ += int((~same.all(1)).sum())
        if same.all():
            return
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            gap = np.where(same, 0.0, np.abs(a - b))
            largest = np.maximum(np.abs(a), np.abs(b))
            share = np.where(same, 0.0, gap / np.where(same, 1.0, largest))
        gap, share = (np.where(np.isfinite(values), values, np.inf) for values in (gap, share))
        self.absolute = max(self.absolute, float(gap.max()))
        self.relative = max(self.relative, float(share.max()))

    def document(self) -> dict[str, Any]:
        """JSON has no infinity: it is the word."""
        shown = {name: value if np.isfinite(value) else "inf" for name, value in asdict(self).items()}
        return {**shown, "same": not self.differ}


@dataclass
class TableDifference:
    """only_here, only_there: ids without a row in the other. variables: by name. unlike: why what could not be compared
    was not, in words. updates: of both."""

    only_here: int = 0
    only_there: int = 0
    variables: dict[str, Difference] = field(default_factory=dict)
    unlike: list[str] = field(default_factory=list)
    updates: tuple[int, int] = (0, 0)

    @property
    def same(self) -> bool:
        values = not any(difference.differ for difference in self.variables.values())
        return values and not (self.only_here or self.only_there or self.unlike) and len(set(self.updates)) == 1

    def document(self) -> dict[str, Any]:
        variables = {name: difference.document() for name, difference in self.variables.items()}
        return {**asdict(self), "variables": variables, "updates": list(self.updates), "same": self.same}


def compare_tables(here: str | Path, there: str | Path) -> dict[str, TableDifference]:
    """The tables of two folders that `save_tables` wrote, by name.

    Raises:
      UserError: what is read is missing or damaged.
    """
    one, other = Saved.read(Path(here)), Saved.read(Path(there))
    found = {}
    for name in dict.fromkeys([*one.tables, *other.tables]):
        if name not in one.tables or name not in other.tables:
            found[name] = TableDifference(unlike=[f"only {'here' if name in one.tables else 'there'}"])
        else:
            found[name] = _compared(opened(one, name), opened(other, name))
    return found


def in_both(one: SavedRows, other: SavedRows) -> Iterator[np.ndarray]:
    """The ids that both tables have, as `SavedRows.ids` gives them; first NO_ID, where both are dynamic."""
    if isinstance(one, SavedDynamicRows) and isinstance(other, SavedDynamicRows):
        yield np.array([NO_ID])
    for ids in one.ids():
        yield ids[other.holds(ids)]


def _compared(one: SavedRows, other: SavedRows) -> TableDifference:
    found = TableDifference(updates=(one.updates, other.updates))
    dynamic = [isinstance(rows, SavedDynamicRows) for rows in (one, other)]
    if one.table.dim != other.table.dim or dynamic[0] != dynamic[1]:
        kinds = [
            f"{'dynamic' if d else 'static'}, dim {r.table.dim}" for d, r in zip(dynamic, (one, other), strict=True)
        ]
        found.unlike.append(f"{kinds[0]} here; {kinds[1]} there")
        return found
    if one.table.optimizer != other.table.optimizer:
        found.unlike.append(f"optimizer {one.table.optimizer} here; {other.table.optimizer} there")
    names = []
    for name in dict.fromkeys([*one.variables, *other.variables]):
        forms = [rows.variables[name].wide if name in rows.variables else None for rows in (one, other)]
        if forms[0] == forms[1]:
            names.append(name)
        elif None in forms:
            found.unlike.append(f"{name} only {'here' if forms[1] is None else 'there'}")
        else:
            found.unlike.append(f"{name} of a number a row in one, a column in the other")
    found.variables = {name: Difference() for name in names}
    shared = 0
    for ids in in_both(one, other):
        shared += int((ids != NO_ID).sum()) if dynamic[0] else len(ids)
        for name in names if len(ids) else ():
            found.variables[name].add(one.read(name, ids), other.read(name, ids))
    found.only_here, found.only_there = one.count - shared, other.count - shared
    return found
