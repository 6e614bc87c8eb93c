"""Checkpoints committed by one rename: a killed save leaves nothing that could be mistaken for one."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings import ShardedEmbedding
from embeddings.checkpoints import restore_tables, save_tables, verify_tables
from embeddings.dense import DenseCheckpoint
from foundation.errors import UserError, first_line
from foundation.tf import tf, tf_write_errors
from trainer.checkpoint_state import read_state, write_state
from trainer.world import World

_NAME = re.compile(r"step-(\d+)$")


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
    which lie beside it by shard. Every process of the world saves and restores together."""

    def __init__(
        self,
        directory: str | Path,
        dense: DenseCheckpoint,
        embedding: ShardedEmbedding,
        world: World,
        keep: int = 2,
    ) -> None:
        self.directory, self.dense, self.keep = Path(directory), dense, keep
        self._embedding, self._world = embedding, world

    def all(self) -> list[Stored]:
        """Committed checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = ((_NAME.match(entry.name), entry) for entry in self.directory.iterdir())
        return sorted((Stored(int(m[1]), entry) for m, entry in found if m), key=lambda stored: stored.step)

    def clear(self) -> None:
        """Removes every checkpoint."""
        for stored in self.all():
            shutil.rmtree(stored.path)

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
        """Commits a checkpoint, then removes all but the last `keep` and the best one."""
        path, chief = folder_of(self.directory, step), self._world.is_chief
        with self._world.atomic_directory(path) as temporary:
            save_tables(self._embedding, temporary / "tables")
            if chief:
                with tf_write_errors(path):
                    self.dense.write(str(temporary / "variables"))
                write_state(temporary, state)
        if chief:
            self._prune(best_step)
        return Stored(step, path)

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
            if stored.step != best_step:
                shutil.rmtree(stored.path, ignore_errors=True)
