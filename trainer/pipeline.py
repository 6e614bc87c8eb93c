"""The stages of a job in order; each is skipped when it is done for the same inputs."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from foundation.errors import UserError
from foundation.progress import say
from trainer.job import digest, what_decides
from trainer.stages.data import source_of
from trainer.supervisor.environment import is_supervised
from trainer.warm_start_source import identity
from trainer.workspace import Workspace

# what several ranks do together; the chief does the others alone
TOGETHER = frozenset({"retrieval", "ranking"})
# stage -> (parts of the job it depends on, stages it depends on); the module is trainer.stages.<stage>
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "data": (("seed", "inputs"), ()),
    "retrieval": (("seed", "retrieval", "training", "evaluation"), ("data",)),
    "index": (("seed", "index"), ("retrieval",)),
    "ranking": (("seed", "ranking", "training"), ("data",)),
    "export": (("name", "postranking", "funnel"), ("index", "ranking")),
    "evaluate": (("evaluation",), ("export",)),
    "report": ((), ("evaluate",)),
}


def made_from(workspace: Workspace, stage: str) -> str:
    """The digest of everything a stage's result depends on."""
    parts, needs = STAGES[stage]
    document = what_decides(workspace.job.document())
    files: list[Any] = source_of(workspace.job.inputs, workspace.run.path) if stage == "data" else []
    if stage in TOGETHER:
        files = identity(workspace.job.training.warm_start, stage)
    return digest(stage, {p: document[p] for p in parts}, files, [made_from(workspace, need) for need in needs])


def run_stages(workspace: Workspace, stages: Iterable[str]) -> None:
    """Runs the given stages in the order given; a stage done before is only named. Every rank comes here; all but the
    chief take part only in what is done together.

    Raises:
      UserError: the run directory is another job's or is in use, or a stage fails for a reason that is the user's.
    """
    with _held(workspace):
        try:
            for stage in stages:
                _run_stage(workspace, stage)
            if workspace.several_processes:
                workspace.membership.phase("the end of rank 0")
                workspace.world.meet()
        except KeyboardInterrupt:
            say("The same command goes on from here.")
            raise


@contextmanager
def _held(workspace: Workspace) -> Iterator[None]:
    """The run directory, held by the chief, or by the process that started the ranks."""
    if is_supervised() or (workspace.several_processes and not workspace.world.is_chief):
        yield
        return
    with workspace.run.locked():
        workspace.run.claim(workspace.job)
        yield


def _run_stage(workspace: Workspace, stage: str) -> None:
    """Runs one stage unless it is done; its result counts only once it is recorded."""
    workspace.membership.stage(stage)
    module: Any = importlib.import_module(f"trainer.stages.{stage}")
    if not workspace.several_processes:
        if _is_to_do(workspace, stage, module):
            _recorded(workspace, stage, module)
    elif workspace.world.is_chief:
        to_do = _is_to_do(workspace, stage, module)
        if stage in TOGETHER:
            workspace.world.agreed(int(to_do))
        if to_do:
            _recorded(workspace, stage, module)
    elif stage in TOGETHER and workspace.world.agreed(0):
        module.perform(workspace)


def _is_to_do(workspace: Workspace, stage: str, module: Any) -> bool:
    """Whether the stage is to be done, and then marks it as begun."""
    source = made_from(workspace, stage)
    if workspace.run.done(stage, source) and module.intact(workspace):
        say(f"{stage}: done before, skipped")
        return False
    for need in STAGES[stage][1]:
        workspace.need(need)
        if not workspace.run.done(need, made_from(workspace, need)):
            raise UserError(
                f"{workspace.run.path}: the stage '{need}' was made from a log that has changed since.",
                f"Make it again: headrace run {workspace.command}, which does every stage that is missing.",
            )
    workspace.run.begin(stage, source)
    return True


def _recorded(workspace: Workspace, stage: str, module: Any) -> None:
    source = workspace.run.making(stage)
    start = time.monotonic()
    facts = module.perform(workspace)
    seconds = time.monotonic() - start
    workspace.run.record(stage, source, seconds, facts)
    say(f"{stage}: done in {seconds:.1f} s")
