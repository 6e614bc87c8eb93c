"""Contenders timed in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Times:
    """Seconds of each round of one contender."""

    seconds: np.ndarray  # [rounds] float64

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """The interquartile range over the median: how far to trust the median."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float((high - low) / self.median)


def interleave(contenders: Mapping[str, Callable[[int], float]], rounds: int, warmup: int) -> dict[str, Times]:
    """Times of each contender over `rounds` rounds.

    contenders: by name, a function of the round's number that does the work and returns the seconds it took.
    warmup: rounds run before, in the same way, and not counted (tracing, page faults, caches).

    Within a round the order is drawn at random (from a fixed seed): none always runs in the caches another left.
    """
    generator = np.random.default_rng(0)
    names = list(contenders)
    seconds = {name: np.empty(warmup + rounds) for name in names}
    for number in range(warmup + rounds):
        for place in generator.permutation(len(names)):
            seconds[names[place]][number] = contenders[names[place]](number)
    return {name: Times(taken[warmup:]) for name, taken in seconds.items()}
