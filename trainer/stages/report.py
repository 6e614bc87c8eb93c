"""Stage "report": report.html, one self-contained page."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from evaluation.report import Report, render
from foundation.files import atomic_file, read_json
from trainer.curves import read_curves
from trainer.judged_funnel import INDEX_BUILDS
from trainer.workspace import Workspace


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves report.html."""
    run, metric = workspace.run, workspace.job.evaluation.main_metric
    metrics = read_json(run.metrics, "the run's metrics")
    leads = {name.partition("_over_")[2]: values[metric] for name, values in metrics.pop("leads").items()}
    evaluated = run.facts("evaluate")
    report = Report(
        title=workspace.job.name,
        facts=_facts(workspace),
        metrics=metrics,
        leads=leads,
        main_metric=metric,
        curves=read_curves(run.curves),
        funnel=evaluated["stages"],
        slates=evaluated["slates"],
        notes=_notes(workspace),
    )
    with atomic_file(run.report) as temporary:
        temporary.write_text(render(report), encoding="utf-8")
    return {}


def _facts(workspace: Workspace) -> list[tuple[str, str]]:
    dataset, split = workspace.dataset, workspace.split
    index = workspace.run.facts("index")
    searched = "searched whole" if index["kind"] == "exact" else f"recall@100 {index['recall']:.3f}"
    seconds = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in workspace.run.seconds().items())
    asked = workspace.run.facts("evaluate")["queries"]
    return [
        ("log", dataset.source),
        ("users", f"{dataset.users.num_rows:,}"),
        ("items", f"{dataset.items.num_rows:,}"),
        ("events", f"{dataset.num_events:,}"),
        ("bad rows", "; ".join(f"{reason}: {rows:,}" for reason, rows in dataset.counts.items()) or "none"),
        ("training until", _date(split.train_end)),
        ("validation until", _date(split.validation_end)),
        ("test until", _date(split.end)),
        ("queries judged", f"{asked['queries']:,} of {asked['users']:,} users"),
        ("index", f"{index['size']:,} vectors, {searched}"),
        ("time taken", seconds),
    ]


def _notes(workspace: Workspace) -> list[str]:
    evaluation = workspace.job.evaluation
    asked = workspace.run.facts("evaluate")["queries"]
    how = {
        "rolling": "one query at the moment of each test positive, with the user's history up to then",
        "at_cutoff": "one query per user at the start of the test period",
    }[evaluation.protocol]
    return [
        f"Protocol '{evaluation.protocol}': {how}; the whole catalogue is ranked, no negatives are sampled, and what a "
        "user has seen is never an answer.",
        "The split is global in time. The two-tower model learned from the training period alone; the baselines know "
        "everything before the test period, and recent popularity everything before the query's day.",
        f"Intervals: {evaluation.confidence:.0%} bootstrap over users, {evaluation.bootstrap_samples:,} samples; "
        "coverage by the jackknife. Leads are paired over queries.",
        f"Left out of the queries: {asked['already_seen']:,} positives on items seen before, "
        f"{asked['sampled_out']:,} queries beyond the sample. {asked['empty_history']:,} queries have no history.",
        "The funnel is judged on a sample of the queries, one at a time, over an index built before each was asked: at "
        f"the start of its day, or, over a long test period, at one of {INDEX_BUILDS} moments.",
    ]


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M} UTC"


def intact(workspace: Workspace) -> bool:
    return workspace.run.report.exists()
