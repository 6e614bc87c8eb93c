"""Stage "ranking": train the multi-objective ranker, judged on the validation period's lists after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foundation.tf import keras
from inputs.batches import ranking_batches
from ranking.ranker import Ranker
from trainer.loop import Training
from trainer.ranked import MAIN_METRIC, Predictor, judge, sampled
from trainer.trained import best_is_kept, fit, restore_best
from trainer.warm_start import warm_start_of
from trainer.workspace import Workspace
from trainer.world import World

VALIDATION_LISTS = 10_000


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves checkpoints and curves; the facts are the best step and what a warm start brought."""
    job, space, split = workspace.job, workspace.space, workspace.split
    world = workspace.world_of_lists
    model = workspace.new_ranker(world)
    lists = workspace.lists(0, split.train_end)
    length = job.inputs.history_length
    batches = ranking_batches(space, lists, workspace.histories, length, job.ranking.batch_size, job.seed)
    warm = warm_start_of(workspace, "ranking", model)
    training = Training(
        stage="ranking",
        made_from=workspace.run.making("ranking"),
        model=model,
        optimizer=_optimizer(workspace),
        batches=batches,
        epochs=job.ranking.epochs,
        validate=_validation(workspace, model, world) if split.has_validation else None,
        metric=MAIN_METRIC,
        patience=job.ranking.patience,
        begin=warm.begin if warm else None,
    )
    best = fit(workspace, training, world)
    if world.holds_the_model:
        workspace.ranker = model
    begun = {"warm_start": warm.facts()} if warm and workspace.world.is_chief else {}
    return {"best_step": best.step, "lists": len(lists), **begun}


def _validation(workspace: Workspace, model: Ranker, world: World) -> Callable[[], dict[str, float]]:
    job, split = workspace.job, workspace.split
    held_out = workspace.lists(split.train_end, split.validation_end)
    chosen = sampled(held_out, VALIDATION_LISTS, job.seed)
    predictor = Predictor(model, workspace.space, workspace.histories, job.inputs.history_length, world.strategy.run)

    def validate() -> dict[str, float]:
        judged = judge(predictor.predict(held_out, chosen), model.objectives, job.evaluation, job.seed)
        return {MAIN_METRIC: judged["value"][MAIN_METRIC].value}

    return validate


def restore(workspace: Workspace) -> Ranker:
    """The trained model."""
    model = workspace.new_ranker()
    restore_best(workspace, "ranking", model, _optimizer(workspace))
    return model


def intact(workspace: Workspace) -> bool:
    return best_is_kept(workspace, "ranking")


def _optimizer(workspace: Workspace) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(workspace.job.ranking.learning_rate)
