"""`headrace data`: simulate a world, import a log, look at a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="Simulate a world's logs, or look at a dataset.", no_args_is_help=True)


@data.command()
def simulate(
    out: Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist yet.")],
    users: Annotated[int | None, typer.Option(help="Users in the world.")] = None,
    items: Annotated[int | None, typer.Option(help="Videos in the world.")] = None,
    days: Annotated[int | None, typer.Option(help="Days logged.")] = None,
    impressions: Annotated[int | None, typer.Option(help="Impressions logged in all.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same bytes.")] = None,
    measure: Annotated[
        bool, typer.Option(help="Measure the world's traps from its logs, beside the parameters.")
    ] = True,
) -> None:
    """Write the logs of a simulated video platform, and apart from them the truth behind."""
    from trainer.simulation import simulate_world

    chosen = {"users": users, "items": items, "days": days, "impressions": impressions, "seed": seed}
    simulate_world(out, {key: value for key, value in chosen.items() if value is not None}, measure)


@data.command()
def prepare(
    job: Annotated[Path, typer.Argument(metavar="JOB")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C")] = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir")] = None,
) -> None:
    """Simulate or read a job's log and fit its features: the first stage of `headrace run`."""
    from trainer.main import run_job

    run_job(["data"], job, overrides, run_dir)


@data.command()
def inspect(path: Annotated[Path, typer.Argument(help="A dataset folder.")]) -> None:
    """Say what a dataset holds: schema, counts, period, bad rows."""
    from trainer.simulation import describe_dataset

    describe_dataset(path)
