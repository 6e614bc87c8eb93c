"""The training loop: several steps per `tf.function` call, exact resume, early stopping on a validation metric."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embeddings import ShardedEmbedding
from embeddings.dense import DenseCheckpoint
from foundation.errors import UserError
from foundation.memory import keep_freed_memory
from foundation.progress import progress, say
from foundation.tf import keras, tf
from inputs.batches import Batches
from strategies import ParameterServerStrategy, Strategy
from strategies.share import summed
from trainer.checkpoint import CheckpointStore, Stored
from trainer.curves import Curves
from trainer.feed import feed
from trainer.job import TrainingConfig
from trainer.profiling import StepWatch
from trainer.run_directory import RunDirectory
from trainer.world import World

WATCHED = 1  # the call of an epoch that is recorded; the first may be the one that is traced


Steps = Callable[[list[Any], int, int], dict[str, float]]


class Trainable(Protocol):
    """What the loop asks of a model beside being a keras.Model."""

    trainable_variables: list[tf.Variable]
    embedding: ShardedEmbedding

    def begin(self, batch: dict[str, Any], step: tf.Tensor) -> Any:
        """That part of a step on a batch, or on a rank's slice of one, which reads no weight, as what tf.nest sees the
        tensors of. `step` [] int64 seeds what is random in it."""

    def losses_of(self, begun: Any, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scalar losses by name of what `begin` began; "loss" is the one to minimise. Of a rank's slice of a batch: its
        shares of them, which sum to the batch's over all ranks."""


@dataclass(frozen=True)
class Training:
    """One model's training: what to train, on what, for how long, judged how.

    validate: the validation metrics, computed after each epoch; `metric` names the one that decides (larger is better).
    patience: epochs in a row without a better `metric` after which training stops. made_from: the digest of everything
    the training depends on: only a checkpoint made from the same is gone on from. begin: what is done before the first
    step.
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
    begin: Callable[[], None] | None = None


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


def train(training: Training, config: TrainingConfig, run: RunDirectory, world: World) -> tuple[Stored, Curves]:
    """Trains to the end, going on from the last committed checkpoint that was made from the same; returns the best one.

    A model that this process holds whole is left with that checkpoint's variables; other ranks hold but shards.

    Raises:
      UserError: the loss is no longer finite.
    """
    keep_freed_memory()
    folder = run.checkpoints / training.stage
    store = checkpoint_store(training.model, training.optimizer, folder, world, config.keep_checkpoints)
    saved = _saved(store, training, run.tensorboard, world)
    curves = Curves(training.stage, run.tensorboard, shown=world.is_chief)
    watch = StepWatch(training.stage, run.tensorboard, run.timelines, world, training.model.embedding)
    position = Position()
    if saved is not None:
        position, curves.points = Position(**saved["position"]), saved["points"]
        say(f"{training.stage}: going on from step {position.step:,}")
    elif training.begin is not None:
        training.begin()
    step = _steps(training.model, training.optimizer, world)
    total = training.epochs * len(training.batches)
    with progress(training.stage, total, "steps", done=position.step) as meter:
        while not position.stopped(training):
            for taken, losses in _epoch(training, config, position, step, world, watch):
                world.membership.progress(position.step)
                meter.advance(taken, f"loss {losses['loss']:.4f}")
                curves.add(position.step, losses)
                examples = training.batches.units / len(training.batches)
                curves.watch(position.step, {"examples_per_second": meter.rate * examples})
                if position.step % config.checkpoint_every == 0:
                    _commit(store, training, position, curves, world)
            position.epoch, position.batch = position.epoch + 1, 0
            world.membership.phase("validation")
            _judge(training, position, curves, world)
            norms = {f"table_norm/{name}": tf.norm(rows) for name, rows in training.model.embedding.tables.items()}
            curves.watch(position.step, norms)
            _commit(store, training, position, curves, world)
    curves.close()
    watch.close()
    best = store.at(position.best_step if position.best_step is not None else position.step)
    if world.holds_the_model:
        store.restore(best)
    return best, curves


def checkpoint_store(model: Any, optimizer: Any, directory: Path, world: World, keep: int) -> CheckpointStore:
    """The store of a training's checkpoints, tracking model and optimizer.

    The optimizer's slot variables are made first, so that restoring finds every variable in place.
    """
    with world.strategy.scope():
        optimizer.build(model.trainable_variables)
    return CheckpointStore(directory, DenseCheckpoint(model=model, optimizer=optimizer), model.embedding, world, keep)


def _epoch(
    training: Training,
    config: TrainingConfig,
    position: Position,
    step: Steps,
    world: World,
    watch: StepWatch,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains the rest of the epoch; yields (steps taken, mean losses) after each call, of which one is watched."""
    left = len(training.batches) - position.batch
    if not left:  # killed between an epoch's last batch and its validation
        return
    with ExitStack() as stack:
        sources = [
            stack.enter_context(training.batches.iterate(position.epoch, position.batch, rank, world.size))
            for rank in world.strategy.ranks
        ]
        feeds = [feed(source) for source in sources]
        for call in itertools.count():
            if not left:
                return
            to_checkpoint = config.checkpoint_every - position.step % config.checkpoint_every
            count = min(config.steps_per_call, left, to_checkpoint)
            watched = watch.steps(position.step + count, count) if call == WATCHED else nullcontext()
            with watched:
                losses = step(feeds, count, position.step)
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


def _judge(training: Training, position: Position, curves: Curves, world: World) -> None:
    metrics = {name: world.agreed_number(value) for name, value in training.validate().items()}
    curves.add(position.step, {f"validation_{name}": value for name, value in metrics.items()})
    value = metrics[training.metric]
    shown = " ".join(f"{name} {number:.4f}" for name, number in metrics.items())
    say(f"{training.stage}: epoch {position.epoch} of {training.epochs}, validation {shown}")
    if value > position.best:
        position.best, position.best_step, position.epochs_without_gain = value, position.step, 0
    else:
        position.epochs_without_gain += 1


def _commit(store: CheckpointStore, training: Training, position: Position, curves: Curves, world: World) -> None:
    world.membership.phase("checkpoint")
    state = {"made_from": training.made_from, "position": asdict(position), "points": curves.points}
    store.save(position.step, state, position.best_step)


def _saved(store: CheckpointStore, training: Training, tensorboard: Path, world: World) -> dict[str, Any] | None:
    """Reads the last whole checkpoint of this training, best one included; what another training left makes room."""
    found = _to_go_on_from(store, training, tensorboard) if world.is_chief else None
    step = world.agreed(-1 if found is None else found.step)
    return None if step < 0 else store.restore(store.at(step))


def _to_go_on_from(store: CheckpointStore, training: Training, tensorboard: Path) -> Stored | None:
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
        return stored
    store.clear()
    shutil.rmtree(tensorboard / training.stage, ignore_errors=True)
    return None


def _steps(model: Any, optimizer: keras.optimizers.Optimizer, world: World) -> Steps:
    """Takes `count` steps from `first_step` on; gives the mean losses of the global batches."""
    strategy = world.strategy
    names: list[str] = []

    def finish(begun: Any, step: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = model.losses_of(begun, step)
        names[:] = losses
        variables = model.trainable_variables
        gradients = tape.gradient(losses["loss"], variables)
        *gradients, of_batch = summed(world.communicator, [*gradients, tf.stack(list(losses.values()))])
        pairs = zip(gradients, variables, strict=True)
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)  # they are the batch's already
        return of_batch

    def whole(batch: dict[str, Any], step: tf.Tensor) -> tf.Tensor:
        return finish(model.begin(batch, step), step)

    if isinstance(strategy, ParameterServerStrategy):
        return _asynchronous(strategy, whole, names)
    sums = _ahead(strategy, model.begin, finish) if model.embedding.begins_ahead else _one_by_one(strategy, whole)

    def means(feeds: list[Any], count: int, first_step: int) -> dict[str, float]:
        total = sums(feeds, tf.constant(count, tf.int64), tf.constant(first_step, tf.int64))
        return dict(zip(names, (total.numpy() / count).tolist(), strict=True))

    return means


def _one_by_one(strategy: Strategy, whole: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """The sum of what the steps give."""

    @tf.function(reduce_retracing=True)
    def sums(feeds: list[Any], count: tf.Tensor, first_step: tf.Tensor) -> tf.Tensor:
        batches = strategy.distribute(feeds)
        total = tf.zeros([])
        for step in tf.range(first_step, first_step + count):
            tf.autograph.experimental.set_loop_options(shape_invariants=[(total, tf.TensorShape(None))])
            total += strategy.run(whole, next(batches), step)
        return total

    return sums


def _ahead(strategy: Strategy, begin: Callable[..., Any], finish: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """The same, each step begun while the one before computes: TensorFlow runs what does not depend on each other as
    it becomes ready, and `begin` depends on the batch alone."""
    form: list[Any] = []  # of what `begin` gives, as tf.nest sees it

    def begun(batch: Any, step: tf.Tensor) -> list[tf.Tensor]:
        form[:] = [begin(batch, step)]
        return tf.nest.flatten(form[0], expand_composites=True)

    def finished(flat: list[tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        return finish(tf.nest.pack_sequence_as(form[0], flat, expand_composites=True), step)

    @tf.function(reduce_retracing=True)
    def sums(feeds: list[Any], count: tf.Tensor, first_step: tf.Tensor) -> tf.Tensor:
        batches = strategy.distribute(feeds)
        total, last = tf.zeros([]), first_step + count - 1
        ahead = strategy.run(begun, next(batches), first_step)
        any_size = [tf.TensorShape([None, *each.shape[1:]] if len(each.shape) else []) for each in ahead]
        for step in tf.range(first_step, first_step + count):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(total, tf.TensorShape(None)), (ahead, any_size)]
            )
            now = ahead
            if step < last:
                ahead = strategy.run(begun, next(batches), step + 1)
            total += strategy.run(finished, now, step)
        return total

    return sums


def _asynchronous(strategy: ParameterServerStrategy, one: Callable[..., tf.Tensor], names: list[str]) -> Steps:
    """Steps that workers take whenever they are free; all are done when a call returns."""

    def means(feeds: list[Any], count: int, first_step: int) -> dict[str, float]:
        [batches] = feeds
        given = ((next(batches), tf.constant(first_step + i, tf.int64)) for i in range(count))
        losses = np.mean([of_step.numpy() for of_step in strategy.results(one, given)], axis=0)
        return dict(zip(names, losses.tolist(), strict=True))

    return means
