"""`headrace checkpoint`: look into one, verify it, compare two, lay one for other ranks, export its tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundation.errors import UserError, nearest
from foundation.precision import PRECISIONS
from foundation.progress import say

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.checkpoint_folder import CheckpointFolder

DIFFERENT = 1  # the exit code of a diff that found something

checkpoint = typer.Typer(help="Look into checkpoints, compare, reshard and export them.", no_args_is_help=True)

Which = Annotated[
    Path,
    typer.Argument(
        help="RUN/checkpoints/STAGE/step-N; or a stage's folder or a run directory: the newest.", metavar="CHECKPOINT"
    ),
]
Out = Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.", metavar="OUT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@checkpoint.command()
def inspect(which: Which, as_json: AsJson = False) -> None:
    """Say what a checkpoint holds: step, ranks, tables, dense variables, the job it was made from."""
    from trainer.checkpoint_inspection import inspected, print_inspected

    document = inspected(_found(which))
    if as_json:
        _print_json(document)
    else:
        print_inspected(document, _console())


@checkpoint.command()
def verify(which: Which) -> None:
    """Read every file against its checksum; name each that is missing, truncated or damaged (exit code 2)."""
    from trainer.checkpoint_inspection import verify_checkpoint

    found = _found(which)
    total = verify_checkpoint(found)
    typer.echo(f"{found.path}: whole; {total:,} bytes of tables read")


@checkpoint.command()
def diff(
    here: Which,
    there: Annotated[Path, typer.Argument(help="The one to compare it with.", metavar="OTHER")],
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints by id and name, whatever their ranks, plans and precisions. Exit code 0: the same; 1:
    different; 2: it cannot be told."""
    from trainer.checkpoint_inspection import compared, print_compared

    document = compared(_found(here), _found(there))
    if as_json:
        _print_json(document)
    else:
        print_compared(document, _console())
    raise typer.Exit(0 if document["same"] else DIFFERENT)


@checkpoint.command()
def reshard(
    which: Which,
    out: Out,
    ranks: Annotated[int, typer.Option(help="For so many ranks.", min=1)],
    plan: Annotated[
        Path | None, typer.Option(help="A file of `headrace plan --json` (default: as without one).", metavar="FILE")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of rows: float32, bfloat16, float16 (default: as is).")] = None,
    slot_precision: Annotated[str | None, typer.Option(help="Of slot variables, likewise.")] = None,
) -> None:
    """Write a checkpoint of the same values, laid for other ranks. (Restoring does not need it: any ranks read any
    checkpoint.)"""
    from trainer.checkpoint_copies import reshard_checkpoint

    for option, value in (("--precision", precision), ("--slot-precision", slot_precision)):
        if value is not None and value not in PRECISIONS:
            raise UserError(f"{option}: no '{value}'; {nearest(value, PRECISIONS)}", f"Known: {', '.join(PRECISIONS)}.")
    reshard_checkpoint(_found(which), _new(out), ranks, plan, precision, slot_precision)
    say(f"written: {out}")


@checkpoint.command()
def export(
    which: Which,
    out: Out,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only rows touched since: a step, or a checkpoint, from which those that differ are taken.",
            metavar="STEP|CHECKPOINT",
        ),
    ] = None,
) -> None:
    """Write tables by id as npy and Parquet, with the vocabulary where a run directory tells it."""
    from trainer.checkpoint_copies import export_checkpoint

    before: int | CheckpointFolder | None = None
    if since is not None:
        before = int(since) if since.isdigit() else _found(Path(since))
    export_checkpoint(_found(which), _new(out), before)
    say(f"written: {out}")


def _found(path: Path) -> CheckpointFolder:
    from trainer.checkpoint_folder import find_checkpoint

    found = find_checkpoint(path)
    if found.path != path.absolute():
        say(f"{path}: its newest checkpoint is {found.path}")
    return found


def _new(out: Path) -> Path:
    if out.exists():
        raise UserError(f"{out}: this is there already.", "Name a folder that is not.")
    return out


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, allow_nan=False, default=str))


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)  # a pipe has no width of its own
