"""Training a stage's model and finding it again: what the retrieval and the ranking stage share."""

from __future__ import annotations

from typing import Any

from foundation.errors import UserError
from foundation.tf import keras
from trainer.checkpoint import Stored, folder_of
from trainer.curves import write_curves
from trainer.loop import Training, checkpoint_store, train
from trainer.workspace import Workspace
from trainer.world import World, alone


def fit(workspace: Workspace, training: Training, world: World) -> Stored:
    """Trains to the end, leaving checkpoints and curves in the run directory; returns the best checkpoint (`train`)."""
    run = workspace.run
    best, curves = train(training, workspace.job.training, run, world)
    if world.is_chief:
        write_curves(run.curves, training.stage, curves.points)
    return best


def restore_best(workspace: Workspace, stage: str, model: Any, optimizer: keras.optimizers.Optimizer) -> None:
    """Reads a finished training's best checkpoint into its untrained model."""
    store = checkpoint_store(model, optimizer, workspace.run.checkpoints / stage, alone(), keep=1)
    store.restore(store.at(workspace.run.facts(stage)["best_step"]))


def best_is_kept(workspace: Workspace, stage: str) -> bool:
    """Whether a finished training's best checkpoint is still there, whole."""
    step = workspace.run.facts(stage)["best_step"]
    try:
        Stored(step, folder_of(workspace.run.checkpoints / stage, step)).check()
    except UserError:
        return False
    return True
