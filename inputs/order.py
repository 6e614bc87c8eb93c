"""The order of an epoch: a pure function of (seed, epoch), so that any batch of it can be made on its own."""

from __future__ import annotations

import numpy as np

WINDOW_BLOCKS = 16


class EpochOrder:
    """Shuffles units that lie in blocks (rows of a file, say) so that few blocks are needed at a time.

    Blocks are shuffled, then the units within each window of `window_blocks` consecutive shuffled blocks. With one
    block this is a plain permutation.

    sizes: [blocks] units in each block; a unit's number is its place in the concatenation of all blocks.
    """

    def __init__(self, sizes: np.ndarray, seed: int, epoch: int, window_blocks: int = WINDOW_BLOCKS) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.sizes)])
        self._seed, self._epoch, self._window_blocks = seed, epoch, window_blocks
        self._blocks = self._generator(0).permutation(len(self.sizes))
        self._window_start = np.concatenate([[0], np.cumsum(self.sizes[self._blocks])])[::window_blocks]
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
            blocks = self._blocks[window * self._window_blocks : (window + 1) * self._window_blocks]
            units = np.concatenate([np.arange(self._first[block], self._first[block + 1]) for block in blocks])
            self._cached = window, self._generator(1 + window).permutation(units)
        return self._cached[1]

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, self._epoch, purpose])))
