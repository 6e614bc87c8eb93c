"""The items and the tree of an index that changes, and the locks under which they do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from retrieval.index.items.slots import NEVER, Slots, View
from retrieval.index.items.tree import LiveTree
from retrieval.index.live.shared_lock import SharedLock
from retrieval.index.searcher import Searcher

_REMOVED, _ADDED = 256, 128  # rows of a tree while searches wait: about 3 ms


class LiveState:
    """Locks are taken in this order: `changing`, held by who changes the tree or writes it to a file; `reading`, held
    together by searches and alone by changes of the tree; `writing`, held by updates and by whatever else changes the
    slots. A `pin` keeps dead slots from being used again."""

    def __init__(self, slots: Slots, tree: LiveTree | None) -> None:
        self.slots, self.tree = slots, tree
        self.changing, self.reading, self.writing = threading.Lock(), SharedLock(), threading.Lock()
        self._pins, self._pins_lock = 0, threading.Lock()

    @property
    def view(self) -> View:
        return self.slots.view

    def pin(self) -> None:
        """To be called under `reading` or `writing`, so that it comes before any release."""
        with self._pins_lock:
            self._pins += 1

    def unpin(self) -> None:
        with self._pins_lock:
            self._pins -= 1

    @contextmanager
    def pinned(self) -> Iterator[View]:
        """A view whose slots stay what they are for as long as the block lasts, with no lock held."""
        with self.writing:
            view = self.view
            self.pin()
        try:
            yield view
        finally:
            self.unpin()

    def put(self, ids: np.ndarray, vectors: np.ndarray, attributes: object | None) -> int:
        """Returns how many items were there before. Under `writing`."""
        gone = self.slots.put(ids, vectors, attributes)
        self._bury(gone)
        return len(gone)

    def drop(self, ids: np.ndarray) -> int:
        """Returns how many items were there. Under `writing`."""
        gone = self.slots.drop(ids)
        self._bury(gone)
        return len(gone)

    def _bury(self, slots: np.ndarray) -> None:
        """Slots that died: what of them is in the tree is a tombstone there; the others are among the fresh."""
        if self.tree is not None and len(slots):
            self.tree.dead.extend(slots[self.tree.holds(slots)].tolist())

    def fold(self) -> int:
        """Moves some tombstones out of the tree and some fresh vectors into it, while searches wait; without a tree
        that can be changed, throws away what is dead among the fresh. Returns how many it dealt with."""
        with self.changing, self.reading.alone(), self.writing:
            done = self._fold()
            with self._pins_lock:
                if not self._pins:
                    self.slots.release_retired()
        return done

    def _fold(self) -> int:
        if self.tree is None or not self.tree.changes_in_place:
            fresh = self.view.fresh
            there = self.view.visible(fresh)
            self.slots.retire(fresh[~there])
            self.slots.set_fresh(fresh[there])
            return int((~there).sum())
        removed = self.tree.remove_dead(_REMOVED)
        self.slots.retire(removed)
        moved = self.slots.take_fresh(_ADDED)
        there = self.view.visible(moved)
        self.slots.retire(moved[~there])
        moving = moved[there]
        self.tree.add(moving, self.view.vectors[moving])
        return len(removed) + len(moved)

    def swap(self, searcher: Searcher, slots: np.ndarray) -> None:
        """From now on `searcher`, whose row r is slot `slots[r]` of a view that is pinned, is the tree; what changed
        since that view is fresh, or a tombstone in it."""
        tree = LiveTree(searcher, slots)
        with self.changing, self.reading.alone(), self.writing:
            view = self.view
            there, held = view.visible_mask(), np.zeros(view.used, bool)
            held[slots] = True
            tree.dead = slots[~there[slots]].tolist()
            self.tree = tree
            self.slots.set_fresh(np.flatnonzero(there & ~held))
            born = view.born[: view.used] != NEVER
            self.slots.set_retired(np.flatnonzero(born & ~there & ~held))
