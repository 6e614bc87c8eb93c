"""The `headrace` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundation.errors import UserError
from foundation.progress import say
from trainer.checkpoint_commands import checkpoint
from trainer.data_commands import data
from trainer.index_commands import index
from trainer.index_version_commands import index_versions
from trainer.plan_command import plan

if TYPE_CHECKING:
    from trainer.workspace import Workspace

# typer re-exports of click only this subclass: every mistake in a command's words derives from its second base
UsageError: type[Any] = typer.BadParameter.__mro__[2]

INTERRUPTED = 130

app = typer.Typer(
    help="Train the embeddings of a recommender and turn them into the funnel that serves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(help="Train one model of a job.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(train, name="train")
app.add_typer(index, name="index")
index.add_typer(index_versions)  # without a name: its commands are the group's
app.command()(plan)

JobFile = Annotated[Path, typer.Argument(help="The job: one YAML file.", metavar="JOB")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: a.b=c. Repeatable.", metavar="A.B=C")
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Where the run lives (default: the job's run_directory).")
]
Strategy = Annotated[
    str | None, typer.Option(help="Where it runs: single, multi_worker, ... (default: the job's).", metavar="NAME")
]
Workers = Annotated[int | None, typer.Option(help="On so many devices (default: the job's).", min=1)]
Restarts = Annotated[
    int | None,
    typer.Option(help="Start failed workers again, so often in all (default: the job's; 3 if several).", min=0),
]
Fallback = Annotated[
    bool, typer.Option("--fallback", help="Set a damaged checkpoint aside and go on from the one before it.")
]
MinWorkers = Annotated[
    int | None, typer.Option(help="Go on with so few if a worker does not come back (default: the job's; all).", min=1)
]
Run = Annotated[Path, typer.Option("--run", help="A run directory that `headrace run` made.")]


def run_job(stages: list[str], job_file: Path, overrides: list[str] | None, run_dir: Path | None) -> Any:
    """Runs stages of a job in this process; returns its workspace."""
    from trainer.launch import JobCall
    from trainer.pipeline import run_stages
    from trainer.preemption import sigterm_heeded

    workspace = JobCall((), job_file, tuple(overrides or ()), run_dir).workspace(alone=True)
    with sigterm_heeded():
        run_stages(workspace, stages)
    return workspace


def run_on_ranks(
    words: tuple[str, ...],
    stages: list[str],
    job_file: Path,
    overrides: list[str] | None,
    run_dir: Path | None,
    strategy: str | None,
    workers: int | None,
    restarts: int | None,
    min_workers: int | None,
    fallback: bool,
) -> Workspace | None:
    """Runs stages of a job where its strategy says, of the command `words`; returns its workspace, None in a process
    that is not the chief."""
    from trainer.launch import JobCall, as_member, serve_if_asked
    from trainer.pipeline import run_stages
    from trainer.preemption import sigterm_heeded

    given = (*(overrides or ()), *(["training.fallback=true"] if fallback else []))
    call = JobCall(words, job_file, given, run_dir, strategy, workers, restarts, min_workers)
    if call.launched():
        return None
    with sigterm_heeded(), as_member(call.job) as membership:
        serve_if_asked(call.job, membership)
        workspace = call.workspace(membership)
        run_stages(workspace, stages)
        return workspace if not workspace.several_processes or workspace.world.is_chief else None


@app.command()
def run(
    job: JobFile,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    strategy: Strategy = None,
    workers: Workers = None,
    restarts: Restarts = None,
    min_workers: MinWorkers = None,
    fallback: Fallback = False,
) -> None:
    """Do it all: data, retrieval, index, ranking, export, evaluation, report. What is done is skipped.

    Exit codes: 0 done; 2 an error, told in words; 75 SIGTERM came and what was trained is checkpointed; 130 Ctrl-C.
    After any of them the same command goes on.
    """
    from trainer.pipeline import STAGES
    from trainer.summary import summarise

    workspace = run_on_ranks(
        ("run",), list(STAGES), job, overrides, run_dir, strategy, workers, restarts, min_workers, fallback
    )
    if workspace is not None:
        summarise(workspace)


@train.command("retrieval")
def train_retrieval(
    job: JobFile,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    strategy: Strategy = None,
    workers: Workers = None,
    restarts: Restarts = None,
    min_workers: MinWorkers = None,
    fallback: Fallback = False,
) -> None:
    """Train the two-tower model."""
    run_on_ranks(
        ("train", "retrieval"),
        ["retrieval"],
        job,
        overrides,
        run_dir,
        strategy,
        workers,
        restarts,
        min_workers,
        fallback,
    )


@train.command("ranking")
def train_ranking(
    job: JobFile,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    strategy: Strategy = None,
    workers: Workers = None,
    restarts: Restarts = None,
    min_workers: MinWorkers = None,
    fallback: Fallback = False,
) -> None:
    """Train the multi-objective ranker."""
    run_on_ranks(
        ("train", "ranking"), ["ranking"], job, overrides, run_dir, strategy, workers, restarts, min_workers, fallback
    )


@app.command()
def export(job: JobFile, overrides: Overrides = None, run_dir: RunDir = None) -> None:
    """Write the bundle that serves: SavedModels, features, histories, vectors."""
    run_job(["export"], job, overrides, run_dir)


@app.command()
def evaluate(job: JobFile, overrides: Overrides = None, run_dir: RunDir = None) -> None:
    """Judge models, baselines and the funnel on the test period; write metrics.json and report.html."""
    from trainer.summary import summarise

    summarise(run_job(["evaluate", "report"], job, overrides, run_dir))


@app.command()
def recommend(
    run: Run,
    user: Annotated[str | None, typer.Option("--user", help="The user's id, as the log writes it.")] = None,
    newcomer: Annotated[bool, typer.Option("--newcomer", help="The slate of somebody never seen.")] = False,
    size: Annotated[int | None, typer.Option(help="How many items (default: the job's slate size).", min=1)] = None,
    block: Annotated[list[str] | None, typer.Option(help="An item id never to show. Repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, as the service gives it.")] = False,
) -> None:
    """Print one user's slate, with each stage's counts, scores and milliseconds."""
    from serving.funnel import Funnel
    from serving.render import print_recommendation

    if (user is None) != newcomer:
        raise UserError("whose slate?", "Give either --user ID or --newcomer.")
    funnel = Funnel.load(run)
    answer = funnel.recommend(user, size=size, blocked_items=block or ())
    if as_json:
        typer.echo(answer.to_json())
    else:
        print_recommendation(answer)


@app.command()
def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=0, max=65535)] = 8000,
) -> None:
    """Answer POST /recommend over HTTP from a run directory."""
    from serving.service import serve as serve_forever

    serve_forever(run, host, port)


@app.command()
def doctor() -> None:
    """Say what this installation can do."""
    from trainer.doctor import examine

    raise typer.Exit(0 if examine() else 1)


def main() -> None:
    """Runs the command; a user's error is one message and exit code 2, Ctrl-C is exit code 130."""
    sys.exit(exit_code_of(lambda: app(standalone_mode=False)))


def exit_code_of(command: Callable[[], Any]) -> int:
    """The exit code of a command, its failure told in words on stderr."""
    try:
        code = command()
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code, in silence
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except UserError as error:
        say_error(error)
        return 2
    except UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, EOFError, typer.Abort):
        say("stopped; nothing half-written is left.")
        return INTERRUPTED
    except MemoryError:
        say("error: this machine's memory is not enough for the job.\nLower batch sizes, dims or the data's size.")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def say_error(error: UserError) -> None:
    print(f"error: {error.message}", file=sys.stderr)
    if error.remedy:
        print(error.remedy, file=sys.stderr)


if __name__ == "__main__":
    main()
