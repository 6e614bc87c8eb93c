"""Stage "retrieval": train the two-tower model, judged on the validation period after each epoch."""

from __future__ import annotations

from typing import Any

from evaluation.harness import evaluate
from foundation.errors import UserError
from foundation.tf import keras
from inputs.batches import retrieval_batches
from retrieval.objectives import rewards_of
from retrieval.scorer import TwoTowerScorer
from retrieval.two_tower import TwoTower, falling
from retrieval.vectors import Vectors
from trainer.loop import Training
from trainer.trained import best_is_kept, fit, restore_best
from trainer.twin import Twin
from trainer.warm_start import warm_start_of
from trainer.workspace import Workspace

VALIDATION_QUERIES = 1_000


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves checkpoints and curves; the facts are the best step and what a warm start brought."""
    job, space, split = workspace.job, workspace.space, workspace.split
    positives = workspace.interactions.between(0, split.train_end)
    if not len(positives):
        raise UserError(
            "retrieval: no positive event in the training period.", "Change inputs.positive or inputs.split."
        )
    world = workspace.world
    batches = retrieval_batches(
        space,
        positives,
        workspace.histories,
        job.inputs.history_length,
        job.retrieval.batch_size,
        job.seed,
        one_size=world.strategy.fixed_shapes,
        rewards=rewards_of(job.retrieval.objectives, positives.labels, len(positives)),
        beside=job.retrieval.beside,
    )
    steps = len(batches) * job.retrieval.epochs
    model = workspace.new_two_tower(steps, world)
    twin = Twin(model, world.strategy, lambda: workspace.new_two_tower(steps))
    vectors = Vectors(twin.model, space, twin.run)
    queries, _ = workspace.queries(split.train_end, split.validation_end, VALIDATION_QUERIES)
    metric = job.evaluation.main_metric

    def validate() -> dict[str, float]:
        twin.renew()
        judged = evaluate([TwoTowerScorer(vectors)], queries, job.evaluation, workspace.catalogue)
        return {metric: judged.metrics[TwoTowerScorer.name][metric].value}

    warm = warm_start_of(workspace, "retrieval", model)
    training = Training(
        stage="retrieval",
        made_from=workspace.run.making("retrieval"),
        model=model,
        optimizer=_optimizer(workspace, steps),
        batches=batches,
        epochs=job.retrieval.epochs,
        validate=validate if split.has_validation else None,
        metric=metric,
        patience=job.retrieval.patience,
        begin=warm.begin if warm else None,
    )
    best = fit(workspace, training, world)
    if world.holds_the_model:
        workspace.two_tower = model
    begun = {"warm_start": warm.facts()} if warm and workspace.world.is_chief else {}
    return {"best_step": best.step, "positives": len(positives), **begun}


def restore(workspace: Workspace) -> TwoTower:
    """The trained model."""
    model = workspace.new_two_tower()
    restore_best(workspace, "retrieval", model, _optimizer(workspace))
    return model


def intact(workspace: Workspace) -> bool:
    return best_is_kept(workspace, "retrieval")


def _optimizer(workspace: Workspace, steps: int = 1) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(falling(workspace.job.retrieval.learning_rate, steps))
