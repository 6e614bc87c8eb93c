"""What a setting of an index finds, and how fast: measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.index.recall import recall_of
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting

BATCH = 256  # queries that are asked at once
_STEP = 1.5  # from one number of leaves to the next
_MOST_REORDERED = 16  # times k
_ENOUGH, _GROWS = 8, 1e-3  # beyond so many leaves a step that gains less says that quantisation bounds recall


@dataclass(frozen=True)
class Trial:
    """Held-out queries [Q, D] and the rows they should find [Q, k]; those after `tuning` only verify."""

    queries: np.ndarray
    wanted: np.ndarray
    tuning: int

    @property
    def k(self) -> int:
        return self.wanted.shape[1]

    def recalls(self, found: np.ndarray) -> tuple[float, float]:
        """(recall on the queries that tune, on those that verify)."""
        here = self.tuning
        return recall_of(found[:here], self.wanted[:here]), recall_of(found[here:], self.wanted[here:])


@dataclass(frozen=True)
class Point:
    """One setting, measured. setting: None is exact search. recall: on the queries that tune; verified: on the others.
    rate: queries per second in batches of `BATCH`, at best."""

    setting: TreeSetting | None
    recall: float
    verified: float
    rate: float


def asked(searcher: Searcher, trial: Trial, effort: Effort | None) -> tuple[np.ndarray, float]:
    """(rows found [Q, k], queries per second)."""
    found = []
    start = time.perf_counter()
    for first in range(0, len(trial.queries), BATCH):
        found.append(searcher.search(trial.queries[first : first + BATCH], trial.k, effort)[0])
    return np.vstack(found), len(trial.queries) / (time.perf_counter() - start)


def measured(searcher: Searcher, trial: Trial, effort: Effort | None) -> Point:
    found, rate = asked(searcher, trial, effort)
    setting = searcher.setting
    if setting is not None and effort is not None:
        setting = setting.with_effort(effort)
    return Point(setting, *trial.recalls(found), rate)


def swept(searcher: Searcher, trial: Trial, target: float, slowest: float) -> list[Point]:
    """A tree at every effort worth knowing: for each number of vectors to reorder, more and more leaves until recall no
    longer grows beyond the target, or until the rate falls below `slowest`."""
    assert searcher.setting is not None
    points = []
    beyond = (1 + target) / 2  # a frontier that ends at the target would not tell what more recall costs
    for reorder in efforts(trial.k, min(searcher.size, _MOST_REORDERED * trial.k), 2.0):
        recall = -1.0
        for leaves in efforts(1, searcher.setting.leaves, _STEP):
            point = measured(searcher, trial, Effort(leaves, reorder))
            points.append(point)
            bounded = leaves > _ENOUGH and point.recall < recall + _GROWS
            if point.rate < slowest or point.recall > beyond or bounded:
                break
            recall = point.recall
    return points


def efforts(least: int, most: int, step: float) -> list[int]:
    """least, then each `step` times the one before (and more by one at least); `most` at last."""
    numbers = [min(least, most)]
    while numbers[-1] < most:
        numbers.append(min(max(numbers[-1] + 1, round(numbers[-1] * step)), most))
    return numbers


def again(
    points: Sequence[Point], searchers: dict[TreeSetting | None, Searcher], trial: Trial, times: int
) -> list[Point]:
    """The points measured again, taking turns, each with the best of its rates: what a busy moment cost is made good.

    searchers: by the setting that each was built with (its own effort aside, see `built_as`)."""
    best = {point: point.rate for point in points}
    for _ in range(times):
        for point in points:
            effort = None if point.setting is None else point.setting.effort
            _, rate = asked(searchers[built_as(point.setting)], trial, effort)
            best[point] = max(best[point], rate)
    return [Point(p.setting, p.recall, p.verified, rate) for p, rate in best.items()]


def built_as(setting: TreeSetting | None) -> TreeSetting | None:
    """What tells trees apart: the setting without its effort."""
    return None if setting is None else setting.with_effort(Effort(setting.leaves, 1))


def pareto(points: Iterable[Point]) -> list[Point]:
    """Those that no other beats in both recall and rate, from the fastest to the most exact."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.rate, -p.recall)):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return kept
