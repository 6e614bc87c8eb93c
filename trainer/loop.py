"""The training loop: several steps per `tf.function` call, exact resume, early stopping on a validation metric."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embeddings import ShardedEmbedding
from foundation.errors import UserError
from foundation.progress import progress, say
from foundation.tf import keras, tf
from inputs.batches import Batches
from strategies import Strategy, create_strategy
from trainer.checkpoint import CheckpointStore, Stored
from trainer.curves import Curves
from trainer.feed import feed
from trainer.job import TrainingConfig


class Trainable(Protocol):
    """What the loop asks of a model beside being a keras.Model."""

    trainable_variables: list[tf.Variable]
    embedding: ShardedEmbedding

    def losses_of(self, batch: dict[str, Any], step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scalar losses by name; "loss" is the one to minimise. `step` [] int64 seeds what is random in a step."""


@dataclass(frozen=True)
class Training:
    """One model's training: what to train, on what, for how long, judged how.

    validate: the validation metrics, computed after each epoch; `metric` names the one that decides (larger is better).
    patience: epochs in a row without a better `metric` after which training stops. made_from: the digest of everything
    the training depends on: only a checkpoint made from the same is gone on from.
    """

    stage: str
    made_from: str
    model: Trainable
    optimizer: keras.optimizers.Optimizer
    batches: Batches
    epochs: int
    validate: Callable[[], dict[str, float]]
    metric: str
    patience: int


@dataclass
class Position:
    """Where a training stands: everything a checkpoint holds beside variables and curves."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_step: int | None = None
    epochs_without_gain: int = 0

    def stopped(self, training: Training) -> bool:
        return self.epoch >= training.epochs or self.epochs_without_gain >= training.patience


def train(training: Training, config: TrainingConfig, checkpoints: Path, tensorboard: Path) -> tuple[Stored, Curves]:
    """Trains to the end, going on from the last committed checkpoint that was made from the same; returns the best one.

    The model is left holding the best checkpoint's variables.

    Raises:
      UserError: the loss is no longer finite.
    """
    store = checkpoint_store(training.model, training.optimizer, checkpoints, config.keep_checkpoints)
    saved = _saved(store, training, tensorboard)
    curves = Curves(training.stage, tensorboard)
    position = Position()
    if saved is not None:
        position, curves.points = Position(**saved["position"]), saved["points"]
        say(f"{training.stage}: going on from step {position.step:,}")
    strategy = create_strategy(config.strategy)
    run = _steps(training.model, training.optimizer, strategy)
    total = training.epochs * len(training.batches)
    with progress(training.stage, total, "steps", done=position.step) as meter:
        while not position.stopped(training):
            for taken, losses in _epoch(training, config, position, run):
                meter.advance(taken, f"loss {losses['loss']:.4f}")
                curves.add(position.step, losses)
                examples = training.batches.units / len(training.batches)
                curves.watch(position.step, {"examples_per_second": meter.rate * examples})
                if position.step % config.checkpoint_every == 0:
                    _commit(store, training, position, curves)
            position.epoch, position.batch = position.epoch + 1, 0
            _judge(training, position, curves)
            norms = {f"table_norm/{name}": tf.norm(rows) for name, rows in training.model.embedding.tables.items()}
            curves.watch(position.step, norms)
            _commit(store, training, position, curves)
    best = store.at(position.best_step if position.best_step is not None else position.step)
    store.restore(best)
    curves.close()
    return best, curves


def checkpoint_store(model: Any, optimizer: Any, directory: Path, keep: int) -> CheckpointStore:
    """The store of a training's checkpoints, tracking model and optimizer.

    The optimizer's slot variables are made first, so that restoring finds every variable in place.
    """
    optimizer.build(model.trainable_variables)
    return CheckpointStore(directory, tf.train.Checkpoint(model=model, optimizer=optimizer), keep)


def _epoch(
    training: Training, config: TrainingConfig, position: Position, run: Callable[..., dict[str, tf.Tensor]]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains the rest of the epoch; yields (steps taken, mean losses) after each call."""
    left = len(training.batches) - position.batch
    if not left:  # killed between an epoch's last batch and its validation
        return
    with training.batches.iterate(position.epoch, position.batch) as source:
        batches = feed(source)
        while left:
            to_checkpoint = config.checkpoint_every - position.step % config.checkpoint_every
            count = min(config.steps_per_call, left, to_checkpoint)
            means = run(batches, tf.constant(count, tf.int64), tf.constant(position.step, tf.int64))
            losses = {name: float(value) for name, value in means.items()}
            if not np.isfinite(losses["loss"]):
                raise UserError(
                    f"{training.stage}: the loss is {losses['loss']} between steps {position.step} and "
                    f"{position.step + count}.",
                    "Lower the learning rates; the last committed checkpoint is kept.",
                )
            position.step += count
            position.batch += count
            left -= count
            yield count, losses


def _judge(training: Training, position: Position, curves: Curves) -> None:
    metrics = training.validate()
    curves.add(position.step, {f"validation_{name}": value for name, value in metrics.items()})
    value = metrics[training.metric]
    shown = " ".join(f"{name} {number:.4f}" for name, number in metrics.items())
    say(f"{training.stage}: epoch {position.epoch} of {training.epochs}, validation {shown}")
    if value > position.best:
        position.best, position.best_step, position.epochs_without_gain = value, position.step, 0
    else:
        position.epochs_without_gain += 1


def _commit(store: CheckpointStore, training: Training, position: Position, curves: Curves) -> None:
    state = {"made_from": training.made_from, "position": asdict(position), "points": curves.points}
    store.save(position.step, state, position.best_step)


def _saved(store: CheckpointStore, training: Training, tensorboard: Path) -> dict[str, Any] | None:
    """Reads the last whole checkpoint of this training, best one included; what another training left makes room."""
    for stored in reversed(store.all()):
        try:
            state = stored.check()
            if state["made_from"] != training.made_from:
                say(f"{training.stage}: what it was trained on has changed: training anew")
                break
            if (best := state["position"]["best_step"]) is not None:
                store.at(best).check()
        except UserError as error:
            say(f"{training.stage}: {error.message} Step {stored.step:,} is of no use and is removed.")
            shutil.rmtree(stored.path)
            continue
        return store.restore(stored)
    store.clear()
    shutil.rmtree(tensorboard / training.stage, ignore_errors=True)
    return None


def _steps(
    model: Any, optimizer: keras.optimizers.Optimizer, strategy: Strategy
) -> Callable[..., dict[str, tf.Tensor]]:
    def one(batch: dict[str, Any], step: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = model.losses_of(batch, step)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(losses["loss"], variables), variables, strict=True))
        return losses

    @tf.function(reduce_retracing=True)
    def run(batches: Iterator, count: tf.Tensor, first_step: tf.Tensor) -> dict[str, tf.Tensor]:
        sums = strategy.run(one, next(batches), first_step)
        for i in tf.range(first_step + 1, first_step + count):
            losses = strategy.run(one, next(batches), i)
            sums = {name: sums[name] + losses[name] for name in sums}
        return {name: value / tf.cast(count, value.dtype) for name, value in sums.items()}

    return run
