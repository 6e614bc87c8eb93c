"""A loss that is not finite: the training stops, or goes on from its last commit without the batch at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.progress import say
from trainer.checkpoint import CheckpointStore
from trainer.job import TrainingConfig
from trainer.post_mortem import are_finite, write_post_mortem
from trainer.steps import NotFinite
from trainer.world import World

if TYPE_CHECKING:
    from trainer.loop import Position, Training

OneByOne = Callable[["Position"], Iterator[Any]]


def without_the_batch_at_fault(
    found: NotFinite,
    training: Training,
    config: TrainingConfig,
    position: Position,
    one_by_one: OneByOne,
    world: World,
    store: CheckpointStore,
    post_mortems: Path,
) -> tuple[Position, list[dict[str, Any]]]:
    """Rolls back to the last commit, to go on without the batch at fault: (position, points of the curves) there. A
    post-mortem is left whatever becomes of it. Every rank comes here, and to the same end.

    position: before the call in which it was found. one_by_one: takes steps from a position on, which it moves.

    Raises:
      UserError: the policy is "stop", or so many were skipped that it is no accident.
    """
    stage, fault, spoilt = training.stage, found.step, False
    world.membership.phase("post-mortem")
    if config.on_nonfinite == "skip":
        store.wait()
        # a batch that was skipped since the commit is not in it yet
        position = replace(type(position)(**_last(store, world)["position"]), skipped=position.skipped)
        spoilt = world.any(not are_finite(training.model))  # then no batch since is to blame
        if not spoilt:
            fault = _at_fault(found, training, replace(position), one_by_one, world)
    about = {"step": fault, "losses": found.losses, "policy": config.on_nonfinite, "skipped_before": position.skipped}
    batch = (position.epoch, position.batch + fault - position.step)
    folder = write_post_mortem(post_mortems, stage, about, training.batches, batch, training.model, world)
    said = f"{stage}: the loss is {found.losses['loss']} at step {found.step:,}"
    if config.on_nonfinite == "stop":
        raise UserError(
            f"{said}; a post-mortem is in {folder}.",
            "Lower the learning rates, or do without the batch at fault: --set training.on_nonfinite=skip. "
            "The last committed checkpoint is kept.",
        )
    if spoilt:
        raise UserError(
            f"{said}; in the checkpoint of step {position.step:,} variables are not finite either, so no batch since "
            f"is to blame. A post-mortem is in {folder}.",
            f"Remove {store.directory}/step-{position.step:08d} to go on from the one before, or lower the learning "
            "rates.",
        )
    if len(position.skipped) >= config.most_skipped:
        raise UserError(
            f"{said}, and the batches of steps {listed(position.skipped)} were skipped before; a post-mortem is in "
            f"{folder}.",
            "So many are no accident: lower the learning rates. training.most_skipped says how many may be skipped.",
        )
    saved = _last(store, world)
    skipped = sorted([*position.skipped, fault])
    say(f"{said}: back to step {position.step:,}, to do without the batch of step {fault:,}. Post-mortem: {folder}")
    return type(position)(**{**saved["position"], "skipped": skipped}), saved["points"]


def listed(steps: list[int]) -> str:
    """Steps in words."""
    return ", ".join(f"{step:,}" for step in steps)


def _at_fault(found: NotFinite, training: Training, at: Position, one_by_one: OneByOne, world: World) -> int:
    """The first step that leaves a loss or a variable not finite: it may have spoilt rows that are looked up only
    later."""
    try:
        for _ in one_by_one(at):
            world.membership.progress(at.step)
            if world.any(not are_finite(training.model)):
                return at.step - 1
            if at.step > found.step:  # it did not come again: not the batch's doing, but the batch is in doubt
                break
    except NotFinite as again:
        return again.step
    return found.step


def _last(store: CheckpointStore, world: World) -> dict[str, Any]:
    """Restores the last committed checkpoint; returns its state."""
    return store.restore(store.at(world.agreed(store.all()[-1].step if world.is_chief else 0)))
