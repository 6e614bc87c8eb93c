"""What a suite found: a table to read and numbers to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.interleaved import Times


@dataclass
class Curves:
    """Times over one quantity. series: by contender, seconds by the quantity's value. of: what takes that time."""

    name: str
    quantity: str
    series: dict[str, dict[float, float]]
    of: str = "a step"

    def add(self, value: float, times: Mapping[str, Times]) -> None:
        for name, taken in times.items():
            self.series.setdefault(name, {})[value] = taken.median


@dataclass(frozen=True)
class Frontiers:
    """Queries/s over how good the answers are. series: by contender, (quality, queries/s)."""

    name: str
    quality: str
    series: dict[str, list[tuple[float, float]]]


@dataclass
class Report:
    """protocol: how the figures were taken, by setting. metrics: by name, a finite number. notes: what was left out,
    and why. tried: settings that a search judged, for the file alone. more_tables: shown below the first."""

    suite: str
    protocol: dict[str, Any]
    machine: dict[str, Any]
    table: Table
    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    curves: list[Curves] = field(default_factory=list)
    tried: dict[str, Any] = field(default_factory=dict)
    more_tables: list[Table] = field(default_factory=list)
    frontiers: list[Frontiers] = field(default_factory=list)

    def show(self, console: Console) -> None:
        for table in (self.table, *self.more_tables):
            if table.row_count:
                console.print(table)
        for note in self.notes:
            console.print(f"note: {note}", markup=False, highlight=False)
        facts = {**self.protocol, **self.machine}
        console.print("; ".join(f"{name}: {value}" for name, value in facts.items()), markup=False, highlight=False)

    def document(self) -> dict[str, Any]:
        tried = {"tried": self.tried} if self.tried else {}
        return {
            "suite": self.suite,
            "protocol": {**self.protocol, "notes": self.notes, **tried},
            "machine": self.machine,
            "metrics": self.metrics,
        }
