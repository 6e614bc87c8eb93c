"""Stage "ranking": train the multi-objective ranker, judged on the validation period's lists after each epoch."""

from __future__ import annotations

from typing import Any

from foundation.tf import keras
from inputs.batches import ranking_batches
from ranking.ranker import Ranker
from trainer.curves import write_curves
from trainer.loop import Training, checkpoint_store, train
from trainer.ranked import MAIN_METRIC, Predictor, judge, sampled
from trainer.workspace import Workspace

VALIDATION_LISTS = 10_000


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves checkpoints and curves; the fact is the best step."""
    job, run, space, split = workspace.job, workspace.run, workspace.space, workspace.split
    model = workspace.new_ranker()
    lists = workspace.lists(0, split.train_end)
    length = job.inputs.history_length
    batches = ranking_batches(space, lists, workspace.histories, length, job.ranking.batch_size, job.seed)
    held_out = workspace.lists(split.train_end, split.validation_end)
    chosen = sampled(held_out, VALIDATION_LISTS, job.seed)
    predictor = Predictor(model, space, workspace.histories, length)

    def validate() -> dict[str, float]:
        judged = judge(predictor.predict(held_out, chosen), model.objectives, job.evaluation, job.seed)
        return {MAIN_METRIC: judged["value"][MAIN_METRIC].value}

    training = Training(
        stage="ranking",
        model=model,
        optimizer=_optimizer(workspace),
        batches=batches,
        epochs=job.ranking.epochs,
        validate=validate,
        metric=MAIN_METRIC,
        patience=job.ranking.patience,
    )
    best, curves = train(training, job.training, run.checkpoints / "ranking", run.tensorboard)
    write_curves(run.curves, "ranking", curves.points)
    workspace.ranker = model
    return {"best_step": best.step, "lists": len(lists)}


def restore(workspace: Workspace) -> Ranker:
    """The trained model."""
    model = workspace.new_ranker()
    store = checkpoint_store(model, _optimizer(workspace), workspace.run.checkpoints / "ranking", 1)
    store.restore(store.at(workspace.run.facts("ranking")["best_step"]))
    return model


def intact(workspace: Workspace) -> bool:
    store = workspace.run.checkpoints / "ranking"
    return (store / f"step-{workspace.run.facts('ranking')['best_step']:08d}").is_dir()


def _optimizer(workspace: Workspace) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(workspace.job.ranking.learning_rate)
