"""Several training steps in one `tf.function` call: begun ahead, one by one, or by workers that do not wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foundation.tf import as_written, keras, tf
from strategies import ParameterServerStrategy, Strategy
from strategies.share import summed
from trainer.world import World

# (feeds, count, first step) -> mean losses; raises NotFinite
Steps = Callable[[list[Any], int, int], dict[str, float]]
Sums = Callable[..., tuple[tf.Tensor, tf.Tensor]]


class NotFinite(Exception):
    """A step's loss is not a finite number. step: the first such one; losses: the means of the call it was in. All
    ranks raise it together: the loss is the global batch's."""

    def __init__(self, step: int, losses: dict[str, float]) -> None:
        super().__init__(f"the loss of step {step} is not finite")
        self.step, self.losses = step, losses


def steps_of(model: Any, optimizer: keras.optimizers.Optimizer, world: World) -> Steps:
    """Takes `count` steps from `first_step` on; gives the mean losses of the global batches.

    The call raises NotFinite where one of them has a loss that is not.
    """
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
        return _asynchronous(strategy, as_written(whole), names)
    way = _ahead if model.embedding.begins_ahead else _one_by_one
    sums = way(strategy, model.begin, finish, names)

    def means(feeds: list[Any], count: int, first_step: int) -> dict[str, float]:
        total, bad = sums(feeds, tf.constant(count, tf.int64), tf.constant(first_step, tf.int64))
        losses = dict(zip(names, (total.numpy() / count).tolist(), strict=True))
        if bad >= 0:
            raise NotFinite(int(bad), losses)
        return losses

    return means


def _first_bad(bad: tf.Tensor, step: tf.Tensor, losses: tf.Tensor, names: list[str]) -> tf.Tensor:
    """The first step whose loss is not finite; -1: none yet."""
    return tf.where((bad < 0) & ~tf.math.is_finite(losses[names.index("loss")]), step, bad)


def _one_by_one(
    strategy: Strategy, begin: Callable[..., Any], finish: Callable[..., tf.Tensor], names: list[str]
) -> Sums:
    """The sum of what the steps give, and the first step whose loss is not finite, or -1."""

    run_begun = as_written(strategy.run_begun)

    @tf.function(reduce_retracing=True)
    def sums(feeds: list[Any], count: tf.Tensor, first_step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batches = strategy.distribute(feeds)
        total, bad = tf.zeros([]), tf.constant(-1, tf.int64)
        for step in tf.range(first_step, first_step + count):
            tf.autograph.experimental.set_loop_options(shape_invariants=[(total, tf.TensorShape(None))])
            losses = run_begun(begin, finish, next(batches), step)
            total, bad = total + losses, _first_bad(bad, step, losses, names)
        return total, bad

    return sums


def _ahead(strategy: Strategy, begin: Callable[..., Any], finish: Callable[..., tf.Tensor], names: list[str]) -> Sums:
    """The same, each step begun while the one before computes: TensorFlow runs what does not depend on each other as
    it becomes ready, and `begin` depends on the batch alone."""
    run = as_written(strategy.run)
    form: list[Any] = []  # of what `begin` gives, as tf.nest sees it; and which of it is None

    def begun(batch: Any, step: tf.Tensor) -> list[tf.Tensor]:
        what = begin(batch, step)
        flat = tf.nest.flatten(what, expand_composites=True)
        form[:] = what, [each is None for each in flat]
        return [each for each in flat if each is not None]

    def finished(tensors: list[tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        what, absent = form
        given = iter(tensors)
        flat = [None if none else next(given) for none in absent]
        return finish(tf.nest.pack_sequence_as(what, flat, expand_composites=True), step)

    @tf.function(reduce_retracing=True)
    def sums(feeds: list[Any], count: tf.Tensor, first_step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batches = strategy.distribute(feeds)
        total, bad, last = tf.zeros([]), tf.constant(-1, tf.int64), first_step + count - 1
        ahead = run(begun, next(batches), first_step)
        any_size = [tf.TensorShape([None, *each.shape[1:]] if len(each.shape) else []) for each in ahead]
        for step in tf.range(first_step, first_step + count):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(total, tf.TensorShape(None)), (ahead, any_size)]
            )
            now = ahead
            if step < last:
                ahead = run(begun, next(batches), step + 1)
            losses = run(finished, now, step)
            total, bad = total + losses, _first_bad(bad, step, losses, names)
        return total, bad

    return sums


def _asynchronous(strategy: ParameterServerStrategy, one: Callable[..., tf.Tensor], names: list[str]) -> Steps:
    """Steps that workers take whenever they are free; all are done when a call returns."""

    def means(feeds: list[Any], count: int, first_step: int) -> dict[str, float]:
        [batches] = feeds
        given = ((next(batches), tf.constant(first_step + i, tf.int64)) for i in range(count))
        of_steps = np.stack([of_step.numpy() for of_step in strategy.results(one, given)])
        losses = dict(zip(names, of_steps.mean(axis=0).tolist(), strict=True))
        bad = np.flatnonzero(~np.isfinite(of_steps[:, names.index("loss")]))
        if len(bad):
            raise NotFinite(first_step + int(bad[0]), losses)
        return losses

    return means
