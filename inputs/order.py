"""The order of an epoch: a pure function of (seed, epoch), so that any batch of it can be made on its own."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

WINDOW_BLOCKS = 16


class EpochOrder:
    """Shuffles units that lie in blocks (rows of a file, say) so that few blocks are needed at a time.

    Blocks are shuffled, then the units within each window of `WINDOW_BLOCKS` consecutive shuffled blocks. With one
    block this is a plain permutation.

    sizes: [blocks] units in each block; a unit's number is its place in the concatenation of all blocks.
    """

    def __init__(self, sizes: np.ndarray, seed: int, epoch: int) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.sizes)])
        self._seed, self._epoch = seed, epoch
        self._blocks = self._generator(0).permutation(len(self.sizes))
        self._window_start = np.concatenate([[0], np.cumsum(self.sizes[self._blocks])])[::WINDOW_BLOCKS]
        self._cached: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Units in the epoch."""
        return int(self._first[-1])

    def units(self, start: int, stop: int) -> np.ndarray:
        """The units at places [start, stop) of the epoch, as int64 numbers."""
        pieces = []
        while start < min(stop, len(self)):
            window = int(np.searchsorted(self._window_start, start, side="right")) - 1
            order, first = self._window(window), int(self._window_start[window])
            end = min(stop, first + len(order))
            pieces.append(order[start - first : end - first])
            start = end
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def _window(self, window: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != window:
            blocks = self._blocks[window * WINDOW_BLOCKS : (window + 1) * WINDOW_BLOCKS]
            units = np.concatenate([np.arange(self._first[block], self._first[block + 1]) for block in blocks])
            self._cached = window, self._generator(1 + window).permutation(units)
        return self._cached[1]

    def _generator(self, purpose: int) -> np.random.Generator:
        return generator_of(self._seed, self._epoch, purpose)


class BatchOrder(Protocol):
    """An epoch's batches: `len` of them, each a set of units on its own."""

    def __len__(self) -> int: ...

    def batch(self, k: int) -> np.ndarray:
        """The units of batch k, int64."""


class Consecutive:
    """Batches that are consecutive pieces of an EpochOrder."""

    def __init__(self, order: EpochOrder, units_per_batch: int) -> None:
        self._order, self._units_per_batch = order, units_per_batch

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._units_per_batch)

    def batch(self, k: int) -> np.ndarray:
        return self._order.units(k * self._units_per_batch, (k + 1) * self._units_per_batch)


class OfOneStretch:
    """Units 0..units-1, in the order of time, cut into stretches of `stretch` units. Each batch comes from one of them;
    which comes when is shuffled over the whole epoch, so that training never drifts with the calendar."""

    def __init__(self, units: int, stretch: int, units_per_batch: int, seed: int, epoch: int) -> None:
        self._units, self._stretch, self._units_per_batch = units, stretch, units_per_batch
        self._seed, self._epoch = seed, epoch
        sizes = np.diff(np.append(np.arange(0, units, stretch), units))
        pieces = -(-sizes // units_per_batch)
        self._pieces = generator_of(seed, epoch, 0).permutation(
            np.stack([np.repeat(np.arange(len(sizes)), pieces), np.concatenate([np.arange(p) for p in pieces])], axis=1)
        )
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    def batch(self, k: int) -> np.ndarray:
        stretch, piece = (int(number) for number in self._pieces[k])
        order = self._order(stretch)
        return order[piece * self._units_per_batch : (piece + 1) * self._units_per_batch]

    def _order(self, stretch: int) -> np.ndarray:
        if stretch not in self._orders:
            first, last = stretch * self._stretch, min((stretch + 1) * self._stretch, self._units)
            self._orders[stretch] = generator_of(self._seed, self._epoch, 1 + stretch).permutation(
                np.arange(first, last)
            )
        return self._orders[stretch]


def generator_of(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """The draws of an epoch for one purpose, apart from those for every other."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, purpose])))
