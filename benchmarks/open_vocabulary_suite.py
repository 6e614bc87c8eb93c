"""Ids that never stop coming: a dynamic table, admitting by frequency, against a plain hashed table of equal bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.machine import describe
from benchmarks.peers import ROOT
from benchmarks.report import Report
from foundation.progress import progress


@dataclass(frozen=True)
class Sizes:
    """A stream of `batches` batches of `batch` ids: half of them one-offs that never come again, half from a Zipf law
    (exponent 1.05) over `regulars` ids. An id is worth a hidden vector to each of `contexts` contexts; the label is a
    draw of the logistic of its worth. Judged on `lists` lists of `list_size` regular ids, by NDCG@10 of the true worth.
    """

    batch: int = 131_072
    batches: int = 764
    regulars: int = 1_000_000
    contexts: int = 64
    dim: int = 16
    threshold: int = 4
    counters: int = 1 << 25
    lists: int = 4_000
    list_size: int = 100


QUICK = Sizes(batch=2_048, batches=30, regulars=2_000, contexts=8, counters=1 << 16, lists=200, list_size=20)


def run(quick: bool) -> Report:
    """Trains both, each in a process of its own, so that its memory is its own; dynamic first: its bytes are what the
    hashed table is given."""
    sizes = QUICK if quick else Sizes()
    table = Table("table", "rows", "table MB, by its rows", "process' peak MB", "NDCG@10", "s", title="open vocabulary")
    report = Report("open_vocabulary", {"stream": Sizes.__doc__, "quick": quick, **asdict(sizes)}, describe(), table)
    found: dict[str, dict[str, Any]] = {}
    with progress("open vocabulary", 3, "tables") as meter:
        for name in ("dynamic", "hashed", "popularity"):
            meter.advance(note=name)
            given = {"hashed_bytes": found["dynamic"]["bytes"]} if name == "hashed" else {}
            found[name] = _child({"table": name, "sizes": asdict(sizes), **given})
    for name, result in found.items():
        low, value, high = result["ndcg"]
        table.add_row(
            name,
            f"{result['rows']:,}",
            f"{result['bytes'] / 1e6:,.0f}",
            f"{result['peak_bytes'] / 1e6:,.0f}",
            f"{value:.4f} [{low:.4f}, {high:.4f}]",
            f"{result['seconds']:.0f}",
        )
        report.metrics.update(
            {
                f"{name}_ndcg@10": value,
                f"{name}_ndcg@10_low": low,
                f"{name}_ndcg@10_high": high,
                f"{name}_rows": result["rows"],
                f"{name}_bytes": result["bytes"],
                f"{name}_peak_bytes": result["peak_bytes"],
            }
        )
    report.metrics["distinct_ids"] = found["dynamic"]["distinct_ids"]
    report.metrics["dynamic_rejected"] = found["dynamic"]["rejected"]
    return report


def _child(question: dict[str, Any]) -> dict[str, Any]:
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.open_vocabulary", json.dumps(question)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"open_vocabulary ended with code {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
