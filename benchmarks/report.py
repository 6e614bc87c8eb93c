"""What a suite found: a table to read and numbers to keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Report:
    """metrics: by name, a finite number. tables: to be printed. notes: what was left out, and why. protocol: how the
    figures were taken, by setting."""

    suite: str
    protocol: dict[str, Any]
    machine: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        for table in self.tables:
            console.print(table)
        for note in self.notes:
            console.print(f"note: {note}", markup=False, highlight=False)
        facts = {**self.protocol, **self.machine}
        console.print("; ".join(f"{name}: {value}" for name, value in facts.items()), markup=False, highlight=False)

    def document(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "protocol": {**self.protocol, "notes": self.notes},
            "machine": self.machine,
            "metrics": self.metrics,
        }
