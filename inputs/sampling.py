"""Items drawn from the catalogue as negatives, and how often each is expected: functions of (seed, epoch, batch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inputs.order import generator_of

NEVER = -1e9  # the log of how often an item is drawn that cannot be
NOT_YET = -1  # in place of the position of an item that is not published yet
_PURPOSE = 1 << 40  # apart from those of the order of an epoch


@dataclass(frozen=True)
class Beside:
    """What a retrieval batch holds beside its positives.

    uniform: items of a global batch drawn evenly from what is published by then; popular: drawn by their positives to
    the power `popularity_power` (Mikolov et al., NIPS 2013, took 0.75). catalogue: every item, each once, in place of
    draws. known: whether a row tells all of its user's training positives.
    """

    uniform: int = 0
    popular: int = 0
    popularity_power: float = 0.75
    catalogue: bool = False
    known: bool = False


class CatalogueSampler:
    """Draws items with replacement: `uniform` of them evenly, then `popular` by how often each is positive; or gives
    the whole catalogue. An item published only after `moment` (seconds) is not there yet."""

    def __init__(self, beside: Beside, counts: np.ndarray, publication: np.ndarray | None, seed: int) -> None:
        """counts: [N] positives of each item; publication: [N] seconds, None: all were always there."""
        self._sizes, self._seed = (beside.uniform, beside.popular), seed
        self._catalogue = beside.catalogue
        self._published = np.zeros(len(counts), np.int64) if publication is None else publication
        self._order = np.argsort(self._published, kind="stable")  # what is published by a moment comes first
        self._times = self._published[self._order]
        weights = counts[self._order].astype(np.float64) ** beside.popularity_power
        weights[counts[self._order] == 0] = 0.0
        self._below = np.concatenate([[0.0], np.cumsum(weights)])
        self._weights = np.empty_like(weights)
        self._weights[self._order] = weights

    @property
    def size(self) -> int:
        """Items that `draw` gives."""
        return len(self._order) if self._catalogue else sum(self._sizes)

    def draw(self, epoch: int, k: int, moment: int) -> np.ndarray:
        """[size] int64 positions, those of global batch k. NOT_YET where nothing can be drawn."""
        if self._catalogue:
            return np.where(self._published <= moment, np.arange(len(self._order)), NOT_YET)
        generator = generator_of(self._seed, epoch, _PURPOSE + k)
        uniform, popular = (generator.random(size) for size in self._sizes)
        there = int(np.searchsorted(self._times, moment, side="right"))
        total = self._below[there]
        places = [
            np.minimum((uniform * there).astype(np.int64), there - 1),
            np.searchsorted(self._below[: there + 1], popular * total, side="right") - 1,
        ]
        possible = np.repeat([there > 0, total > 0], self._sizes)
        drawn = self._order[np.where(possible, np.concatenate(places), 0)]
        return np.where(possible, drawn, NOT_YET)

    def log_draws(self, items: np.ndarray, moment: int) -> np.ndarray:
        """[n] float32: the log of how often a batch's draws are expected to hold each item; NEVER: it cannot be."""
        there = int(np.searchsorted(self._times, moment, side="right"))
        uniform, popular = self._sizes
        total = self._below[there]
        expected = np.full(len(items), uniform / max(there, 1))
        if total > 0:
            expected += popular * self._weights[items] / total
        expected[self._published[items] > moment] = 0.0
        return np.where(expected > 0, np.log(np.maximum(expected, 1e-300)), NEVER).astype(np.float32)
