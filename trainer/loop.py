"""The training loop: several steps per `tf.function` call, exact resume, early stopping on a validation metric."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from embeddings import ShardedEmbedding
from embeddings.dense import DenseCheckpoint
from foundation.errors import UserError
from foundation.memory import keep_freed_memory
from foundation.progress import progress, say
from foundation.tensors import to_tensors
from foundation.tf import keras, tf
from inputs.batches import Batches
from trainer.checkpoint import CheckpointStore, Stored
from trainer.curves import Curves
from trainer.feed import feed
from trainer.job import TrainingConfig
from trainer.nonfinite import listed, without_the_batch_at_fault
from trainer.preemption import leave, sigterm_noted
from trainer.profiling import StepWatch
from trainer.run_directory import RunDirectory
from trainer.steps import NotFinite, Steps, steps_of
from trainer.world import World

WATCHED = 1  # the call of an epoch that is recorded; the first may be the one that is traced


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
    None: there is nothing to judge by, all epochs are trained and the last is the best.
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
    validate: Callable[[], dict[str, float]] | None
    metric: str
    patience: int
    begin: Callable[[], None] | None = None


@dataclass
class Position:
    """Where a training stands: everything a checkpoint holds beside variables and curves. skipped: the steps whose
    batches are left out, since a loss was not finite for them; they count as taken."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_step: int | None = None
    epochs_without_gain: int = 0
    skipped: list[int] = field(default_factory=list)

    def stopped(self, training: Training) -> bool:
        return self.epoch >= training.epochs or self.epochs_without_gain >= training.patience


def train(training: Training, config: TrainingConfig, run: RunDirectory, world: World) -> tuple[Stored, Curves]:
    """Trains to the end, going on from the last committed checkpoint that was made from the same; returns the best one.

    A model that this process holds whole is left with that checkpoint's variables; other ranks hold but shards.

    Raises:
      UserError: a loss is not finite, and the policy is "stop" or has skipped as many batches as it may.
      SystemExit: with PREEMPTED: SIGTERM came to a rank; what was trained is committed.
    """
    keep_freed_memory()
    _build(training, world)
    store = _store_of(training, config, run, world)
    saved = _saved(store, training, run.tensorboard, world, config.fallback)
    if saved is None and training.begin is not None:
        training.begin()
    curves = Curves(training.stage, run.tensorboard, shown=world.is_chief)
    watch = StepWatch(training.stage, run.tensorboard, run.timelines, world, training.model.embedding)
    position = Position()
    if saved is not None:
        position, curves.points = Position(**saved["position"]), saved["points"]
        say(f"{training.stage}: going on from step {position.step:,}")
    step = steps_of(training.model, training.optimizer, world)
    one_by_one = partial(_epoch, training, config.model_copy(update={"steps_per_call": 1}), step, world, None)
    shown = progress(training.stage, training.epochs * len(training.batches), "steps", done=position.step)
    with store, shown as meter, sigterm_noted() as asked:
        world.membership.progress(position.step)
        if saved is None and config.on_nonfinite == "skip":  # what to roll back to
            _commit(store, training, position, curves, world)
        while not position.stopped(training):
            try:
                for taken, losses in _epoch(training, config, step, world, watch, position):
                    world.membership.progress(position.step)
                    meter.advance(taken, f"loss {losses['loss']:.4f}")
                    curves.add(position.step, losses)
                    examples = training.batches.units / len(training.batches)
                    curves.watch(position.step, {"examples_per_second": meter.rate * examples})
                    leaving = world.any(asked())
                    if leaving or position.step % config.checkpoint_every == 0:
                        _commit(store, training, position, curves, world)
                    _leave_if(leaving, store, training, position)
            except NotFinite as found:
                reached = position.step
                position, curves.points = without_the_batch_at_fault(
                    found, training, config, position, one_by_one, world, store, run.post_mortems
                )
                curves.watch(position.step, {"skipped_batches": len(position.skipped)})
                meter.advance(position.step - reached)
                continue
            position.epoch, position.batch = position.epoch + 1, 0
            _judge(training, position, curves, world)
            _commit(store, training, position, curves, world)
            _leave_if(not position.stopped(training) and world.any(asked()), store, training, position)
        store.wait()
    if position.skipped:
        say(f"{training.stage}: trained without the batches of steps {listed(position.skipped)} (on_nonfinite: skip)")
    curves.close()
    watch.close()
    best = store.at(position.best_step if position.best_step is not None else position.step)
    if world.holds_the_model:
        store.restore(best)
    return best, curves


def _build(training: Training, world: World) -> None:
    """Makes the tables whose hardware must know a batch's shapes first."""
    embedding = training.model.embedding
    if embedding.built:
        return
    batch = to_tensors(training.batches.batch(0, 0, 0, world.size))
    with world.strategy.scope():
        embedding.build({name: batch[name].shape for name in embedding.features})


def _store_of(training: Training, config: TrainingConfig, run: RunDirectory, world: World) -> CheckpointStore:
    kept = (config.keep_checkpoints, config.keep_every, config.incremental)
    return checkpoint_store(training.model, training.optimizer, run.checkpoints / training.stage, world, *kept)


def checkpoint_store(
    model: Any,
    optimizer: Any,
    directory: Path,
    world: World,
    keep: int,
    keep_every: int = 0,
    incremental: int = 0,
) -> CheckpointStore:
    """The store of a training's checkpoints, tracking model and optimizer.

    The optimizer's slot variables are made first, so that restoring finds every variable in place.
    """
    with world.strategy.scope():
        optimizer.build(model.trainable_variables)
    dense = DenseCheckpoint(model=model, optimizer=optimizer)
    return CheckpointStore(directory, dense, model.embedding, world, keep, keep_every, incremental)


def _epoch(
    training: Training,
    config: TrainingConfig,
    step: Steps,
    world: World,
    watch: StepWatch | None,
    position: Position,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains the rest of the epoch, but for the batches to be skipped; yields (steps taken or skipped, mean losses)
    after each call, of which one is watched."""
    end = position.step + len(training.batches) - position.batch
    if position.step == end:  # killed between an epoch's last batch and its validation
        return
    first, calls, losses = position.step, 0, dict[str, float]()
    with ExitStack() as stack:
        sources = [
            stack.enter_context(training.batches.iterate(position.epoch, position.batch, rank, world.size))
            for rank in world.strategy.ranks
        ]
        feeds = [feed(source, world.strategy.fixed_shapes) for source in sources]
        while position.step < end:
            if position.step in position.skipped:
                for each in feeds:
                    next(each)
                position.step, position.batch = position.step + 1, position.batch + 1
                if losses and position.step % config.checkpoint_every == 0:  # to be committed like any
                    yield position.step - first, losses
                    first = position.step
                continue
            to_checkpoint = config.checkpoint_every - position.step % config.checkpoint_every
            to_skipped = min((bad - position.step for bad in position.skipped if bad > position.step), default=end)
            count = min(config.steps_per_call, end - position.step, to_checkpoint, to_skipped)
            watched = watch.steps(position.step + count, count) if watch and calls == WATCHED else nullcontext()
            with watched:
                losses = step(feeds, count, position.step)
            calls += 1
            position.step, position.batch = position.step + count, position.batch + count
            yield position.step - first, losses
            first = position.step


def _leave_if(asked: bool, store: CheckpointStore, training: Training, position: Position) -> None:
    """Leaves what was just committed behind, if a rank was asked to."""
    if asked:
        store.wait()
        leave(f"{training.stage}: SIGTERM: checkpointed at step {position.step:,}.")


def _judge(training: Training, position: Position, curves: Curves, world: World) -> None:
    norms = {f"table_norm/{name}": tf.norm(rows) for name, rows in training.model.embedding.tables.items()}
    curves.watch(position.step, norms)
    if training.validate is None:
        position.best_step = position.step
        return
    world.membership.phase("validation")
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


def _saved(
    store: CheckpointStore, training: Training, tensorboard: Path, world: World, fallback: bool
) -> dict[str, Any] | None:
    """Reads the last whole checkpoint of this training, best one included; what another training left makes room."""
    found = _to_go_on_from(store, training, tensorboard, fallback) if world.is_chief else None
    step = world.agreed(-1 if found is None else found.step)
    return None if step < 0 else store.restore(store.at(step))


def _to_go_on_from(store: CheckpointStore, training: Training, tensorboard: Path, fallback: bool) -> Stored | None:
    """fallback: a damaged checkpoint is set aside, and the one before it taken.

    Raises:
      UserError: the last checkpoint is damaged.
    """
    for stored in reversed(store.all()):
        try:
            state = stored.check()
            if state["made_from"] != training.made_from:
                say(f"{training.stage}: what it was trained on has changed: training anew")
                break
            if (best := state["position"]["best_step"]) is not None:
                store.at(best).check()
        except UserError as error:
            if not fallback:
                raise UserError(
                    f"{training.stage}: {error.message}",
                    "To go on from the last checkpoint that is whole, run the same command with --fallback.",
                ) from error
            aside = store.set_aside(stored)
            say(f"{training.stage}: {error.message} Step {stored.step:,} is not gone on from; it is now {aside}.")
            continue
        return stored
    if fallback and not store.all() and store.has_set_aside():
        say(f"{training.stage}: no checkpoint is whole: training anew")
    store.clear()
    shutil.rmtree(tensorboard / training.stage, ignore_errors=True)
    return None
