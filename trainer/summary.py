"""What a run prints at its end: the result, where the report is, and how to ask for a slate."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from foundation.files import read_json
from trainer.workspace import Workspace


def summarise(workspace: Workspace) -> None:
    """Prints the tables of a finished run."""
    metrics = read_json(workspace.run.metrics, "the run's metrics")
    evaluation = workspace.job.evaluation
    k = evaluation.cutoffs[0]
    console = Console(width=None if sys.stdout.isatty() else 132)  # a pipe has no width of its own
    shown = [evaluation.main_metric, f"recall@{k}", "mrr", f"coverage@{k}"]
    console.print(_table("retrieval", metrics["retrieval"], shown))
    for name, lead in metrics["leads"].items():
        (metric, interval), *_ = lead.items()
        console.print(f"{name.replace('_over_', ' over ')}: {metric} {_lead(interval)}", highlight=False)
    size = workspace.job.postranking.slate_size
    shown = [f"ndcg@{size}", f"recall@{size}", f"diversity@{size}", "true_satisfied_click"]
    console.print(_table("funnel", metrics["funnel"], shown))
    example = workspace.run.facts("evaluate")["slates"][0]["user"]
    console.print(f"report: {workspace.run.report}", highlight=False, soft_wrap=True)
    hint = f"a slate: headrace recommend --run {workspace.run.path} --user {example}"
    console.print(hint, highlight=False, soft_wrap=True)


def _table(title: str, models: dict[str, dict[str, Any]], metrics: list[str]) -> Table:
    known = [metric for metric in metrics if any(metric in values for values in models.values())]
    table = Table("", *known, title=title, title_justify="left")
    for model, values in models.items():
        table.add_row(model, *(_interval(values.get(metric)) for metric in known))
    return table


def _interval(interval: dict[str, float | None] | None) -> str:
    if interval is None or interval["value"] is None:
        return "-"
    if interval["low"] is None:
        return f"{interval['value']:.4f}"
    return f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"


def _lead(interval: dict[str, float | None]) -> str:
    if interval["value"] is None or interval["low"] is None or interval["high"] is None:
        return "not measured"  # one test user makes no interval
    verdict = "ahead" if interval["low"] > 0 else "behind" if interval["high"] < 0 else "no difference shown"
    return f"{interval['value']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}], {verdict}"
