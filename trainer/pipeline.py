"""The stages of a job in order; each is skipped when it is done for the same inputs."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from typing import Any

from foundation.errors import UserError
from foundation.progress import say
from trainer.job import digest
from trainer.stages.data import source_of
from trainer.workspace import Workspace

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
    document = workspace.job.document()
    files = source_of(workspace.job.inputs, workspace.run.path) if stage == "data" else []
    return digest(stage, {p: document[p] for p in parts}, files, [made_from(workspace, need) for need in needs])


def run_stages(workspace: Workspace, stages: Iterable[str]) -> None:
    """Runs the given stages in the order given; a stage done before is only named.

    Raises:
      UserError: the run directory is another job's or is in use, or a stage fails for a reason that is the user's.
    """
    with workspace.run.locked():
        workspace.run.claim(workspace.job)
        try:
            for stage in stages:
                run_stage(workspace, stage)
        except KeyboardInterrupt:
            say("The same command goes on from here.")
            raise


def run_stage(workspace: Workspace, stage: str) -> None:
    """Runs one stage unless it is done; its result counts only once it is recorded."""
    source = made_from(workspace, stage)
    module: Any = importlib.import_module(f"trainer.stages.{stage}")
    if workspace.run.done(stage, source) and module.intact(workspace):
        say(f"{stage}: done before, skipped")
        return
    for need in STAGES[stage][1]:
        workspace.need(need)
        if not workspace.run.done(need, made_from(workspace, need)):
            raise UserError(
                f"{workspace.run.path}: the stage '{need}' was made from a log that has changed since.",
                f"Make it again: headrace run {workspace.command}, which does every stage that is missing.",
            )
    workspace.run.begin(stage, source)
    start = time.monotonic()
    facts = module.perform(workspace)
    seconds = time.monotonic() - start
    workspace.run.record(stage, source, seconds, facts)
    say(f"{stage}: done in {seconds:.1f} s")
