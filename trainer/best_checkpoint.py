"""The checkpoint that a finished training stands for."""

from __future__ import annotations

from pathlib import Path

from foundation.errors import UserError
from trainer.checkpoint_folder import CheckpointFolder, find_checkpoint
from trainer.run_directory import RunDirectory


def best_checkpoint(run: Path, stage: str, option: str = "") -> CheckpointFolder:
    """The best one of a run's stage that is done. option: what stands before the path of one where it is asked for.

    Raises:
      UserError: there is none, or the stage is not done.
    """
    best = RunDirectory(run).facts(stage).get("best_step")
    if best is None:  # its newest would be another when this training is gone on from
        newest = find_checkpoint(run, stage)
        raise UserError(
            f"{run}: its {stage} is not trained to its end.",
            f"Finish it, or name one checkpoint: {option}{newest.path}",
        )
    return find_checkpoint(run / "checkpoints" / stage / f"step-{best:08d}", stage)
