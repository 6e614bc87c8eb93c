"""Which checkpoint `training.warm_start` means for a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foundation.errors import UserError
from trainer.best_checkpoint import best_checkpoint
from trainer.checkpoint_folder import CheckpointFolder, find_checkpoint


def warm_start_source(path: str | None, stage: str) -> CheckpointFolder | None:
    """Of a run directory: the best checkpoint of a stage that is done; of a stage's folder the newest. None: no warm
    start is asked for, or what is named is another stage's.

    Raises:
      UserError: there is no checkpoint, or the stage is not done.
    """
    if path is None:
        return None
    try:
        if (Path(path) / "checkpoints").is_dir():
            return _of_run(Path(path), stage)
        found = find_checkpoint(path)
    except UserError as error:
        raise UserError(f"training.warm_start: {error.message}", error.remedy) from error
    return found if found.stage in (None, stage) else None


def identity(path: str | None, stage: str) -> list[Any]:
    """What tells the source from another, wherever it lies: part of what a stage is made from; []: there is none."""
    source = warm_start_source(path, stage)
    return [] if source is None else [source.saved.state.get("made_from"), source.step]


def _of_run(path: Path, stage: str) -> CheckpointFolder | None:
    if not any((path / "checkpoints" / stage).glob("step-*")):
        find_checkpoint(path)  # there is one of another stage at least
        return None
    return best_checkpoint(path, stage, "training.warm_start=")
