"""A checkpoint named by a path: its folder, its stage's, or its run directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from foundation.errors import UserError
from trainer.checkpoint_state import STATE, TABLES, CheckpointState, read_state

STEP = re.compile(r"step-(\d+)$")


@dataclass(frozen=True)
class CheckpointFolder:
    """path: RUN/checkpoints/STAGE/step-N, wherever it may have been moved; or a folder that holds tables alone, as a
    library's user saves them."""

    path: Path

    @property
    def tables(self) -> Path:
        return self.path if self.holds_tables_alone else self.path / TABLES

    @property
    def holds_tables_alone(self) -> bool:
        return _has_ranks(self.path) and not (self.path / TABLES).is_dir()

    @cached_property
    def saved(self) -> CheckpointState:
        """Raises UserError: it is missing, damaged or newer."""
        if self.holds_tables_alone:
            return CheckpointState(self.path, {}, {}, None)
        return read_state(self.path)

    @property
    def step(self) -> int | None:
        """As the training counts, or the folder's name says; None: neither does."""
        name = STEP.match(self.path.name)
        told = self.saved.state.get("position", {}).get("step")
        return told if told is not None else int(name[1]) if name else None

    @property
    def stage(self) -> str | None:
        """Its stage folder's name; None: it lies in none."""
        return self.path.parent.name if self.path.parent.parent.name == "checkpoints" else None

    @property
    def run(self) -> Path | None:
        """The run directory around it; None: there is none."""
        around = self.path.parent.parent.parent
        return around if self.stage is not None and (around / "config.yaml").is_file() else None


def find_checkpoint(path: str | Path, stage: str | None = None) -> CheckpointFolder:
    """The checkpoint that a path names: of a stage's folder or a run directory the newest. stage: of a run directory,
    only that.

    Raises:
      UserError: there is no such folder, or no checkpoint in it.
    """
    given = Path(path).absolute()
    if not given.is_dir():
        what = "not a folder" if given.exists() else "no such folder"
        raise UserError(
            f"{path}: {what}.", "Name a checkpoint's folder (RUN/checkpoints/STAGE/step-N), or a run directory."
        )
    if _is_checkpoint(given):
        return CheckpointFolder(given)
    stages = sorted((given / "checkpoints").glob(stage or "*")) if (given / "checkpoints").is_dir() else [given]
    found = [entry for folder in stages for entry in folder.glob("step-*") if STEP.match(entry.name)]
    if not found:
        raise UserError(
            f"{path}: no checkpoint here{f' of {stage}' if stage else ''}.",
            "Name a checkpoint's folder (RUN/checkpoints/STAGE/step-N), or a run directory that has one.",
        )
    return CheckpointFolder(max(found, key=lambda entry: (_changed(entry), int(entry.name.partition("-")[2]))))


def _is_checkpoint(path: Path) -> bool:
    return (path / STATE).is_file() or (path / TABLES).is_dir() or _has_ranks(path)


def _has_ranks(path: Path) -> bool:
    return any(entry.is_dir() for entry in path.glob("rank-*"))


def _changed(checkpoint: Path) -> float:
    """When it was saved; 0: that cannot be told."""
    state = checkpoint / STATE
    return state.stat().st_mtime if state.exists() else 0.0
