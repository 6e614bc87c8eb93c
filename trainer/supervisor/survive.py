"""A group that is started again from what it has committed, up to a budget; with fewer workers where one is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foundation.progress import say
from trainer.supervisor.account import GroupFailed
from trainer.supervisor.interrupts import Interrupts

SECONDS_A_LOOK = 0.1


@dataclass(frozen=True)
class Survival:
    """What a group may go through. restarts: how often it is started again in all. least_workers: with how few it goes
    on when a slot is lost; None: with all or not at all. first_pause, longest_pause: seconds before a restart, twice as
    many each time until something more is committed."""

    restarts: int = 3
    least_workers: int | None = None
    first_pause: float = 1.0
    longest_pause: float = 60.0


def survive(
    attempt: Callable[[Sequence[int]], None], workers: int, survival: Survival, committed: Callable[[], str]
) -> None:
    """Calls `attempt` with the slots of this machine to start ranks on, 0 to workers - 1 at first, until it returns.
    committed: what the next attempt goes on from, in words that change whenever more is committed.

    A slot whose rank ends twice in a row before it has joined the others is lost: the next attempt does without it,
    where `least_workers` allows. Each later restart tries all slots again.

    Raises:
      UserError: of an attempt; GroupFailed when there is to be no other, saying why: nothing was committed between two
        failures at the same step, or for the same cause at the start; or the restarts are used up.
      KeyboardInterrupt, SystemExit: a signal, as in `supervise`.
    """
    state = _Survivor(workers, survival)
    with Interrupts() as interrupts:
        while True:
            try:
                attempt(state.slots)
                return
            except GroupFailed as failed:
                pause = state.after(failed, committed())
            _wait(pause, interrupts)


class _Survivor:
    """What is known from one attempt to the next. slots: those to start ranks on."""

    def __init__(self, workers: int, survival: Survival) -> None:
        self.slots = list(range(workers))
        self._workers, self._survival = workers, survival
        self._lost: set[int] = set()
        self._last: tuple[GroupFailed, int, str] | None = None  # with its slot, and what was committed then
        self._restarts = self._in_a_row = 0

    def after(self, failed: GroupFailed, committed: str) -> float:
        """Decides on the next attempt, and says so; returns the seconds to wait before it.

        Raises:
          GroupFailed: there is to be none.
        """
        slot, last, of = self.slots[failed.rank], self._last, f" of {self._workers}"
        progressed = last is None or last[2] != committed
        if failed.place is not None:
            self._lost -= set(self.slots)  # they came back
        before = last is not None and not last[0].came and last[1] == slot
        if not failed.came and (before or slot in self._lost) and self._may_shrink():
            self._lost.add(slot)
            self.slots.remove(slot)
            self._last = None
            left = f"{len(self.slots)} worker{'s' if len(self.slots) > 1 else ''}"
            say(f"{failed.short}: it does not come back. Going on with {left}{of}, from {committed}.")
            return 0.0
        if last is not None and not progressed and _same(last[0], failed):
            raise _given_up(last[0], f"{_where(failed)}, twice in a row, from {committed}: not started again.")
        if self._restarts >= self._survival.restarts:
            used = f"{self._restarts} of {self._survival.restarts} restarts are used up (training.restarts)."
            raise _given_up(failed, used if self._restarts else "")
        self._restarts += 1
        self._in_a_row = 1 if progressed else self._in_a_row + 1
        self._last = failed, slot, committed
        pause = min(self._survival.first_pause * 2 ** (self._in_a_row - 1), self._survival.longest_pause)
        again = f"Restart {self._restarts} of {self._survival.restarts} in {pause:g} s"
        say(f"{failed.short}. {again}, from {committed}{self._grown_back()}.")
        return pause

    def _may_shrink(self) -> bool:
        least = self._survival.least_workers
        return least is not None and len(self.slots) > least

    def _grown_back(self) -> str:
        """Tries the lost slots once more, each until it fails to join."""
        if not self._lost:
            return ""
        self.slots = list(range(self._workers))
        return f", with {self._workers} workers if all come back"


def _same(one: GroupFailed, other: GroupFailed) -> bool:
    """Whether the same brought both about: the same step; or before one, the same words, unless a signal struck."""
    if one.place != other.place:
        return False
    return one.place is not None or (one.short == other.short and not one.struck)


def _where(failed: GroupFailed) -> str:
    if failed.place is None:
        return "It ends so at its start"
    stage, step, phase = failed.place
    at = f"step {step}{f' of {stage}' if stage else ''}"
    return f"It ends at {at}" if phase is None else f"It ends in {phase} after {at}"


def _given_up(first: GroupFailed, why: str) -> GroupFailed:
    message = f"{first.message}\n{why}" if why else first.message
    return GroupFailed(message, first.remedy, first.rank, first.short, first.place, first.came, first.struck)


def _wait(seconds: float, interrupts: Interrupts) -> None:
    """A signal that came meanwhile, or since the group ended, ends the command."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not interrupts.received:
        time.sleep(min(SECONDS_A_LOOK, seconds))
    if interrupts.received:
        interrupts.stop_between_groups()
