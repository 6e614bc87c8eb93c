"""`python -m benchmarks SUITE [--json FILE] [--plots FOLDER] [--quick] [--part PART]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.report import Report
from foundation.errors import UserError, nearest
from foundation.files import write_json
from trainer.main import exit_code_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _embeddings(quick: bool) -> Report:
    from benchmarks.embeddings_suite import run

    return run(quick)


def _inputs(quick: bool) -> Report:
    from benchmarks.inputs_suite import run

    return run(quick)


def _training(quick: bool) -> Report:
    from benchmarks.training_suite import run

    return run(quick)


def _scaling(quick: bool) -> Report:
    from benchmarks.scaling_suite import run

    return run(quick)


def _checkpoint(quick: bool) -> Report:
    from benchmarks.checkpoint_suite import run

    return run(quick)


def _planner(quick: bool) -> Report:
    from benchmarks.planner_suite import run

    return run(quick)


def _retrieval(quick: bool, logs: Sequence[str] = ()) -> Report:
    from benchmarks.retrieval_suite import run

    return run(quick, logs)


def _open_vocabulary(quick: bool) -> Report:
    from benchmarks.open_vocabulary_suite import run

    return run(quick)


def _index(quick: bool, parts: Sequence[str] = ()) -> Report:
    from benchmarks.index_suite import run

    return run(quick, parts)


SUITES: dict[str, Callable[[bool], Report]] = {
    "embeddings": _embeddings,
    "open_vocabulary": _open_vocabulary,
    "training": _training,
    "scaling": _scaling,
    "planner": _planner,
    "checkpoint": _checkpoint,
    "inputs": _inputs,
    "index": _index,
    "retrieval": _retrieval,
}
OF_PARTS: dict[str, Callable[[bool, Sequence[str]], Report]] = {"index": _index, "retrieval": _retrieval}


@app.command()
def measure(
    suite: Annotated[str, typer.Argument(help=f"One of: {', '.join(SUITES)}; or all.", metavar="SUITE")],
    json: Annotated[Path | None, typer.Option(help="Write the figures here.", metavar="FILE")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Draw the curves of a suite into this folder, as PNG.", metavar="FOLDER")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, to see that it runs: no figure to quote.")
    ] = False,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only this part of a suite that has parts (index, retrieval). Repeatable.", metavar="PART"),
    ] = None,
) -> None:
    """Measure headrace against its peers; print a table, and write the figures as JSON."""
    if suite != "all" and suite not in SUITES:
        raise UserError(f"there is no benchmark suite '{suite}': {nearest(suite, [*SUITES, 'all'])}")
    if part and suite not in OF_PARTS:
        raise UserError(f"the suite {suite} has no parts; --part goes with: {', '.join(OF_PARTS)}")
    if json is not None and json.is_dir():
        raise UserError(f"{json}: this is a folder; --json wants the name of a file.")
    if plots is not None and plots.exists() and not plots.is_dir():
        raise UserError(f"{plots}: this is a file; --plots wants the name of a folder.")
    console = Console(width=None if sys.stdout.isatty() else 132)  # a pipe has no width of its own
    reports = []
    for name in SUITES if suite == "all" else [suite]:
        reports.append(OF_PARTS[name](quick, part) if part else SUITES[name](quick))
        reports[-1].show(console)
    if plots is not None:
        from benchmarks.plots import draw_curves

        for file in draw_curves(reports, plots):
            console.print(f"plot: {file}", highlight=False, soft_wrap=True)
    if json is not None:
        write_json(json, reports[0].document() if suite != "all" else _joined(reports))
        console.print(f"figures: {json}", highlight=False, soft_wrap=True)


def _joined(reports: list[Report]) -> dict[str, object]:
    """All suites as one document: each metric and protocol under its suite's name."""
    return {
        "suite": "all",
        "protocol": {report.suite: report.document()["protocol"] for report in reports},
        "machine": reports[0].machine,
        "metrics": {f"{report.suite}.{name}": value for report in reports for name, value in report.metrics.items()},
    }


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: app(standalone_mode=False)))
