"""The order of an epoch over blocks that are decoded whole: many lanes through the log, a batch takes rows of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from inputs.order import generator_of


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a block in its shuffled order. following: blocks its lane needs next, in turn."""

    block: int
    start: int
    stop: int
    following: np.ndarray


class LaneOrder:
    """The batches of an epoch, a pure function of the arguments; any batch can be found on its own.

    Blocks are shuffled and dealt, whole, to lanes of about equal length; rows are shuffled within their block. A batch
    takes from each lane a share that is proportional to the lane's length, lane after lane: so it mixes rows of as many
    places as there are lanes, and a rank, whose slice of the batch is a run of lanes, decodes those lanes' blocks only.
    """

    def __init__(
        self, sizes: np.ndarray, batch_size: int, seed: int, epoch: int, lanes: int = 1, shuffle: bool = True
    ) -> None:
        """sizes: [blocks] rows of each, one row at least in all. batch_size: rows of a batch; the last has what is
        left. lanes: at most; there are fewer where a lane would give a batch no row. shuffle: else blocks and rows stay
        in the order of the log."""
        self._sizes, self._batch_size = np.asarray(sizes, np.int64), batch_size
        self._seed, self._epoch, self._shuffle = seed, epoch, shuffle
        blocks = np.flatnonzero(self._sizes)
        self._blocks = self._generator(0).permutation(blocks) if shuffle else blocks
        self._first = np.concatenate([[0], np.cumsum(self._sizes[self._blocks])])  # a block's first row in the epoch
        self._rows = int(self._first[-1])
        self._lane_ends = self._dealt(lanes)

    def __len__(self) -> int:
        """Batches in the epoch."""
        return math.ceil(self._rows / self._batch_size)

    @property
    def lanes(self) -> int:
        return len(self._lane_ends) - 1

    def row_order(self, block: int) -> np.ndarray | None:
        """[rows] int64, the shuffled order of a block's rows; None where they stay as they are."""
        if not self._shuffle:
            return None
        return self._generator(1 + block).permutation(int(self._sizes[block]))

    def pieces(self, k: int, rank: int = 0, world_size: int = 1) -> list[Piece]:
        """Batch k, or a rank's slice of it."""
        rows = min(self._batch_size, self._rows - k * self._batch_size)
        first, last = rows * rank // world_size, rows * (rank + 1) // world_size
        cut, place = [], 0
        for piece in self._of_lanes(k):
            start = piece.start + max(first - place, 0)
            place += piece.stop - piece.start
            stop = piece.stop - max(place - last, 0)
            if start < stop:
                cut.append(replace(piece, start=start, stop=stop))
        return cut

    def _of_lanes(self, k: int) -> Iterator[Piece]:
        """Lane l has given floor(p e / n) - floor(p s / n) of its rows [s, e) once p of the n rows are given: for all
        lanes together that is p, without a remainder to place."""
        rows, ends = self._rows, [int(end) for end in self._first[self._lane_ends]]  # Python's integers: n * n is large
        before, after = min(k * self._batch_size, rows), min((k + 1) * self._batch_size, rows)
        for lane, (start, end) in enumerate(itertools.pairwise(ends)):
            given = [start + done * end // rows - done * start // rows for done in (before, after)]
            yield from self._between(given[0], given[1], int(self._lane_ends[lane + 1]))

    def _between(self, start: int, stop: int, lane_end: int) -> Iterator[Piece]:
        """Rows [start, stop) of the epoch's sequence of blocks."""
        at = int(np.searchsorted(self._first, start, side="right")) - 1
        while start < stop:
            first, end = int(self._first[at]), min(int(self._first[at + 1]), stop)
            yield Piece(int(self._blocks[at]), start - first, end - first, self._blocks[at + 1 : lane_end])
            start, at = end, at + 1

    def _dealt(self, lanes: int) -> np.ndarray:
        """[lanes + 1] places in the sequence of blocks where lanes begin and end."""
        while True:
            targets = [self._rows * lane // lanes for lane in range(1, lanes)]
            ends = np.unique([0, *np.searchsorted(self._first, targets), len(self._blocks)])
            # with less than a row per batch, rounding could have a lane take a row back
            if self._batch_size * int(np.diff(self._first[ends]).min()) >= self._rows:
                return ends
            lanes -= 1

    def _generator(self, purpose: int) -> np.random.Generator:
        return generator_of(self._seed, self._epoch, purpose)
