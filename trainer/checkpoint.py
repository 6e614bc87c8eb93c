"""Checkpoints committed by one rename: a killed save leaves nothing that could be mistaken for one."""

from __future__ import annotations

import copy
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings import ShardedEmbedding
from embeddings.checkpoints import (
    Base,
    Snapshot,
    restore_tables,
    snapshot_tables,
    tell_failure,
    verify_tables,
    wait_for_ranks,
)
from embeddings.dense import DenseCheckpoint
from foundation.background import Background
from foundation.errors import UserError, first_line
from foundation.files import commit_directory, disk_errors, partial_of
from foundation.tf import tf, tf_write_errors
from trainer.checkpoint_folder import STEP
from trainer.checkpoint_state import read_state, write_state
from trainer.world import World

_PATIENCE = 10.0  # seconds
_ASIDE = "set-aside-"


@dataclass(frozen=True)
class Stored:
    """A committed checkpoint: its step and folder."""

    step: int
    path: Path

    def check(self) -> dict[str, Any]:
        """`state`, and sees that the tables are whole.

        Raises:
          UserError: a file is missing or damaged.
        """
        state = self.state()
        verify_tables(self.path / "tables")
        return state

    def state(self) -> dict[str, Any]:
        """What was saved beside the variables: input position, early stopping, curves.

        Raises:
          UserError: it, or a file of the dense variables, is missing, truncated or damaged.
        """
        found = read_state(self.path)
        found.check()
        return found.state


def folder_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}"


class CheckpointStore:
    """The checkpoints of one training, `DIR/step-N`. `dense` holds every variable that must survive but the tables',
    which lie beside it by shard. Every process of the world saves and restores together. A context manager, for whoever
    saves: what is being written when the block is left is given some time."""

    def __init__(
        self,
        directory: str | Path,
        dense: DenseCheckpoint,
        embedding: ShardedEmbedding,
        world: World,
        keep: int = 2,
        keep_every: int = 0,
        incremental: int = 0,
    ) -> None:
        """keep_every: of checkpoints whose step is a multiple of it none is removed; 0: there are none. incremental: so
        many saves after one of everything hold only the rows that changed since, of tables that track their updates;
        the first save of a process is of everything."""
        self.directory, self.dense, self.keep, self.keep_every = Path(directory), dense, keep, keep_every
        self._embedding, self._world = embedding, world
        self._writing: Background | None = None
        self._incremental, self._since_base = incremental, 0
        self._base: Base | None = None

    def all(self) -> list[Stored]:
        """Committed checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = ((STEP.match(entry.name), entry) for entry in self.directory.iterdir())
        return sorted((Stored(int(m[1]), entry) for m, entry in found if m), key=lambda stored: stored.step)

    def clear(self) -> None:
        """Removes every checkpoint."""
        for stored in self.all():
            shutil.rmtree(stored.path)

    def set_aside(self, stored: Stored) -> Path:
        """Takes a checkpoint out of those that are gone on from; gives its new folder."""
        aside = stored.path.with_name(f"{_ASIDE}{stored.path.name}")
        with disk_errors(aside):
            shutil.rmtree(aside, ignore_errors=True)
            stored.path.rename(aside)
        return aside

    def has_set_aside(self) -> bool:
        """Whether some were."""
        return any(self.directory.glob(f"{_ASIDE}*"))

    def at(self, step: int) -> Stored:
        """The checkpoint of a step.

        Raises:
          UserError: it is not there.
        """
        for stored in self.all():
            if stored.step == step:
                return stored
        raise UserError(f"{self.directory}: no checkpoint of step {step}.", "Train again in a new run directory.")

    def save(self, step: int, state: dict[str, Any], best_step: int | None) -> Stored:
        """Takes a snapshot of tables and dense variables, and begins to write it; training may go on at once. It is
        committed when every rank has written its part; then all but the last `keep`, those of `keep_every` and the best
        one are removed. The save before is waited for.

        Raises:
          UserError: this save or the one before could not be written.
        """
        self.wait()
        path = folder_of(self.directory, step)
        told = copy.deepcopy(state)  # which goes on changing while it is written
        with ExitStack() as undone:  # an interrupt in it leaves nothing
            if self._world.is_chief:
                undone.callback(shutil.rmtree, partial_of(path, os.getpid()), ignore_errors=True)
            partial = self._new_partial(path)
            snapshot = undone.enter_context(snapshot_tables(self._embedding))
            if self._world.is_chief:
                with tf_write_errors(path):
                    self.dense.write(str(partial / "variables"))
            self._writing = Background(lambda: self._write(snapshot, partial, path, told, best_step))
            undone.pop_all()
        if not snapshot.holds:
            self._writing.wait()
        return Stored(step, path)

    def wait(self) -> None:
        """Returns when the last save is committed, for all processes.

        Raises:
          UserError: it could not be written.
        """
        if (writing := self._writing) is not None:
            writing.join()  # interrupted here, it is still known
            self._writing = None
            writing.wait()
            self._world.meet()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets a save that is being written end, if it soon does: what it leaves half-written is swept at the next
        start."""
        if self._writing is not None:
            self._writing.join(_PATIENCE)

    def _new_partial(self, path: Path) -> Path:
        """An empty folder for all processes to write to, whose disk they share."""
        pid = os.getpid()
        if self._world.is_chief:
            with disk_errors(path):
                shutil.rmtree(partial_of(path, pid), ignore_errors=True)
                partial_of(path, pid).mkdir(parents=True)
        return partial_of(path, self._world.agreed(pid))

    def _write(
        self, snapshot: Snapshot, partial: Path, path: Path, told: dict[str, Any], best_step: int | None
    ) -> None:
        """What goes on while training does."""
        try:
            base = self._base if self._since_base < self._incremental else None
            with snapshot:
                written = snapshot.write(partial / "tables", base)
            self._base = Base(path / "tables", written.parts)  # its name when the next save begins
            self._since_base = 0 if base is None else self._since_base + 1
            if not self._world.is_chief:
                return
            wait_for_ranks(partial / "tables")
            with disk_errors(path):
                write_state(partial, told)
                commit_directory(partial, path)
        except BaseException as error:
            if not self._world.is_chief:
                tell_failure(partial / "tables", self._world.strategy.ranks[0], str(error))
            elif not self._world.several_processes:  # others may write to it yet: it is swept at the next start
                shutil.rmtree(partial, ignore_errors=True)
            raise
        self._prune(best_step)

    def restore(self, stored: Stored) -> dict[str, Any]:
        """Reads the variables into `dense` and the tables; returns the state saved beside them.

        Raises:
          UserError: a file is missing, damaged, or does not fit the model.
        """
        state = stored.state()
        try:
            self.dense.read(str(stored.path / "variables"))
        except (tf.errors.OpError, AssertionError, ValueError) as error:
            raise UserError(
                f"{stored.path}: this checkpoint does not fit the model ({first_line(error)}).",
                "It was made by another version or is damaged: train in a new run directory.",
            ) from error
        restore_tables(self._embedding, stored.path / "tables")
        return state

    def _prune(self, best_step: int | None) -> None:
        for stored in self.all()[: -self.keep]:
            lasts = self.keep_every and stored.step % self.keep_every == 0
            if stored.step != best_step and not lasts:
                shutil.rmtree(stored.path, ignore_errors=True)
