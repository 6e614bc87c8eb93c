"""Which rank failed first, and how: decided from what is known of each, on one clock."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from trainer.supervisor.environment import PREEMPTED


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds. join: for the last rank, once the first has joined. silent: without a beat (the
    process is stopped, or one call holds all its threads). stuck: without a further step while steps are expected.
    grace: for a rank to end when it was asked to, before it is killed. leave: for the ranks to checkpoint and end after
    SIGTERM. between_beats: from one beat to the next."""

    join: float = 300.0
    silent: float = 60.0
    stuck: float = 900.0
    grace: float = 5.0
    leave: float = 300.0
    between_beats: float = 1.0


class PatientClock:
    """Seconds during which the ranks could be heard. A round of the supervisor's loop counts as one second at most:
    when this process was itself stopped, or could not print, the ranks are not to blame for what it missed."""

    LONGEST_ROUND = 1.0

    def __init__(self) -> None:
        self.now = 0.0
        self._last = time.monotonic()

    def advance(self) -> None:
        """Called once a round."""
        now = time.monotonic()
        self.now += min(now - self._last, self.LONGEST_ROUND)
        self._last = now


@dataclass
class Standing:
    """What is known of one rank; times are the clock's, None for what has not happened.

    title: what it is besides, behind a space, or "". began: it was started. joined: it joined. heard: its last beat;
    None again when it left the group. stage, step, phase: where it said it was; no steps are expected in a phase that
    has a name. moved: when that last changed. failing, told, reason: it said that it fails; when by its own
    (monotonic) clock; of what. ended, status: its process ended, with this exit code, or minus the signal that killed
    it.
    """

    rank: int
    title: str = ""
    began: float = 0.0
    joined: float | None = None
    heard: float | None = None
    stage: str | None = None
    step: int | None = None
    phase: str | None = None
    moved: float = 0.0
    failing: float | None = None
    told: float = math.inf
    reason: str = ""
    ended: float | None = None
    status: int | None = None

    @property
    def failed(self) -> float | None:
        """When it failed, by its own account or by its exit code."""
        if self.status in (0, PREEMPTED):
            return None
        return self.failing if self.failing is not None else self.ended

    @property
    def place(self) -> tuple[str | None, int | None, str | None]:
        """(stage, step, phase)"""
        return self.stage, self.step, self.phase

    def beat(self, now: float, step: int | None, phase: str | None, stage: str | None = None) -> None:
        """Notes a beat."""
        self.heard = now
        if (stage, step, phase) != self.place:
            self.stage, self.step, self.phase, self.moved = stage, step, phase, now


class How(Enum):
    """The ways to fail."""

    ENDED = "ended"
    LINGERING = "lingering"
    ABSENT = "absent"
    SILENT = "silent"
    STUCK = "stuck"


@dataclass(frozen=True)
class Failure:
    """rank: the first that failed. seconds: how long was waited for it."""

    rank: int
    how: How
    seconds: float = field(default=0.0)


def first_failure(standings: Iterable[Standing], now: float, timeouts: Timeouts) -> Failure | None:
    """The failure that ends the group; None while all is well."""
    standings = list(standings)
    failed = [one for one in standings if one.failed is not None]
    if failed:
        # Two that failed in one round: a signal comes from outside, an exit code may be the consequence; of those that
        # told of it, the one that did so first.
        first = min(failed, key=lambda one: (one.failed, (one.status or 0) >= 0, one.told, one.rank))
        if first.status is not None:
            return Failure(first.rank, How.ENDED)
        waited = now - (first.failed or 0.0)
        return Failure(first.rank, How.LINGERING, waited) if waited > timeouts.grace else None
    return _absent(standings, now, timeouts) or _hung(standings, now, timeouts)


def _absent(standings: list[Standing], now: float, timeouts: Timeouts) -> Failure | None:
    """A rank that the others wait for in vain: they joined, it did not."""
    joined = [one.joined for one in standings if one.joined is not None]
    if not joined:
        return None
    for one in standings:
        waited = now - max(min(joined), one.began)
        if one.joined is None and (one.ended is not None or waited > timeouts.join):
            return Failure(one.rank, How.ABSENT, waited)
    return None


def _hung(standings: list[Standing], now: float, timeouts: Timeouts) -> Failure | None:
    """A rank that is not heard of, or else one that does no step: of those, the one that is furthest behind, since the
    others may be waiting for it."""
    beating = [one for one in standings if one.heard is not None and one.ended is None]
    silent = [one for one in beating if now - (one.heard or 0.0) > timeouts.silent]
    if silent:
        first = min(silent, key=lambda one: (one.heard, one.rank))
        return Failure(first.rank, How.SILENT, now - (first.heard or 0.0))
    stuck = [one for one in beating if one.phase is None and now - one.moved > timeouts.stuck]
    if stuck:
        first = min(stuck, key=lambda one: (one.step, one.moved, one.rank))
        return Failure(first.rank, How.STUCK, now - first.moved)
    return None
