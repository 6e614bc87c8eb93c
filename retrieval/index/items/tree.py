"""A searcher whose rows hold the items of slots, changed in place where ScaNN bears it."""

from __future__ import annotations

import numpy as np

from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort

_KEPT = 16  # rows that are never removed: ScaNN's tree is not meant to be empty


class LiveTree:
    """Row r of a searcher holds the vector of slot `slots[r]`; `dead` slots, whose items are gone, are still in it.

    Facts of ScaNN 1.4.2, found by trying: an update beside a running search ends the process (SIGSEGV), so the caller
    holds a lock; updating or deleting in a tree with SOAR ends it even alone, so such a tree is only ever built anew;
    a deleted row's place is taken by the last row.
    """

    def __init__(self, searcher: Searcher, slots: np.ndarray) -> None:
        self.searcher = searcher
        self.size = len(slots)  # rows, those of the dead included
        self._slots = np.array(slots, np.int64)
        self._rows = np.full(int(self._slots.max(initial=0)) + 1, -1, np.int64)  # by slot
        self._rows[self._slots] = np.arange(self.size)
        self.dead: list[int] = []

    @property
    def slots(self) -> np.ndarray:
        """[size] int64."""
        return self._slots[: self.size]

    @property
    def changes_in_place(self) -> bool:
        return self.searcher.setting is None or self.searcher.setting.soar is None

    def holds(self, slots: np.ndarray) -> np.ndarray:
        """Which of slots [n] are in it."""
        known = slots < len(self._rows)
        return known & (self._rows[np.where(known, slots, 0)] >= 0)

    def search(self, queries: np.ndarray, k: int, effort: Effort | None) -> tuple[np.ndarray, np.ndarray]:
        """As `Searcher.search`, with slots for rows."""
        rows, scores = self.searcher.search(queries, k, effort)
        return np.where(rows >= 0, self._slots[rows], -1), scores

    def add(self, slots: np.ndarray, vectors: np.ndarray) -> None:
        """Appends vectors [n, D] of slots [n]. Nothing may search meanwhile."""
        if not len(slots):
            return
        rows = self.searcher.append(vectors)
        if self.size + len(slots) > len(self._slots):
            self._slots = np.concatenate([self.slots, np.empty(self.size // 4 + len(slots), np.int64)])
        most = int(slots.max())
        if most >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.full(most + most // 4 + 1 - len(self._rows), -1, np.int64)])
        self._slots[rows], self._rows[slots] = slots, rows
        self.size += len(slots)

    def remove_dead(self, most: int) -> np.ndarray:
        """Takes up to `most` of the dead out; returns their slots. Nothing may search meanwhile."""
        count = max(min(most, len(self.dead), self.size - _KEPT), 0)
        removed = self.dead[len(self.dead) - count :]
        for slot in removed:
            row = int(self._rows[slot])
            self.searcher.native.delete([row])
            self.size -= 1
            moved = self._slots[self.size]
            self._slots[row], self._rows[moved] = moved, row
            self._rows[slot] = -1
        del self.dead[len(self.dead) - count :]
        return np.array(removed, np.int64)
