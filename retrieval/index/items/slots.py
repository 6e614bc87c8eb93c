"""Items of an index that changes, by slot; what a search sees of them is as of one update.

An update writes new slots and marks old ones; it never writes over what a search may be reading. A slot carries the
number of the update that it was `born` in and of the one it `died` in: a search that began after update s sees the
slots with born <= s < died (multiversion concurrency control).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.index.items.attributes import Attributes

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class View:
    """The items after update `sequence`. ids [capacity] int64, vectors [capacity, D] float32, born and died [capacity]
    int64, of which the first `used` slots count. size: items that are there. fresh, fresh_vectors: the slots that no
    tree holds yet, some perhaps dead again, and their vectors side by side."""

    sequence: int
    ids: np.ndarray
    vectors: np.ndarray
    born: np.ndarray
    died: np.ndarray
    attributes: Attributes | None
    used: int
    size: int
    fresh: np.ndarray
    fresh_vectors: np.ndarray

    def visible(self, slots: np.ndarray) -> np.ndarray:
        """Which slots (any shape; -1: none) hold an item now."""
        return (slots >= 0) & (self.born[slots] <= self.sequence) & (self.died[slots] > self.sequence)

    def visible_mask(self) -> np.ndarray:
        """[used] bool."""
        return (self.born[: self.used] <= self.sequence) & (self.died[: self.used] > self.sequence)


class Slots:
    """Where items are kept. One thread changes it at a time; `view` may be read by any."""

    def __init__(self, dim: int, capacity: int) -> None:
        capacity = max(capacity, 1024)
        self._free: list[int] = []
        self._retired: list[np.ndarray] = []
        self._fresh = np.empty(1024, np.int64)
        self._fresh_vectors = np.empty((1024, dim), np.float32)
        self._first, self._last = 0, 0  # of the fresh ones
        self.slot_of: dict[int, int] = {}
        self.view = View(
            sequence=0,
            ids=np.zeros(capacity, np.int64),
            vectors=np.empty((capacity, dim), np.float32),
            born=np.full(capacity, NEVER, np.int64),
            died=np.full(capacity, NEVER, np.int64),
            attributes=None,
            used=0,
            size=0,
            fresh=self._fresh[:0],
            fresh_vectors=self._fresh_vectors[:0],
        )

    @property
    def capacity(self) -> int:
        return len(self.view.ids)

    def reserve(self, more: int) -> None:
        """Makes room for so many new slots. Arrays that a search reads stay as they are: larger ones take over."""
        needed = self.view.used + max(more - len(self._free), 0)
        if needed <= self.capacity:
            return
        capacity = max(needed, self.capacity + self.capacity // 4)
        old = self.view
        ids, vectors = np.zeros(capacity, np.int64), np.empty((capacity, old.vectors.shape[1]), np.float32)
        born, died = np.full(capacity, NEVER, np.int64), np.full(capacity, NEVER, np.int64)
        for larger, smaller in ((ids, old.ids), (vectors, old.vectors), (born, old.born), (died, old.died)):
            larger[: old.used] = smaller[: old.used]
        attributes = None if old.attributes is None else old.attributes.grown(capacity)
        self._show(ids=ids, vectors=vectors, born=born, died=died, attributes=attributes)

    def begin_attributes(self, attributes: Attributes) -> None:
        self._show(attributes=attributes)

    def put(self, ids: np.ndarray, vectors: np.ndarray, attributes: object | None, fresh: bool = True) -> np.ndarray:
        """One update: items get new slots, the slots they had die. Returns the slots that died.

        ids [n] int64, distinct; attributes: a table that `Attributes.checked` returned.
        """
        self.reserve(len(ids))
        view, update = self.view, self.view.sequence + 1
        again = [self._free.pop() for _ in range(min(len(self._free), len(ids)))]
        more = len(ids) - len(again)
        slots = np.concatenate([np.array(again, np.int64), np.arange(view.used, view.used + more)])
        view.ids[slots], view.vectors[slots], view.died[slots] = ids, vectors, NEVER
        if view.attributes is not None:
            view.attributes.write(slots, attributes)
        view.born[slots] = update
        gone = self._forget(ids, update)
        self.slot_of.update(zip(ids.tolist(), slots.tolist(), strict=True))
        if fresh:
            self._add_fresh(slots, vectors)
        self._show(sequence=update, used=view.used + more, size=view.size + len(ids) - len(gone))
        return gone

    def add_dead(self, count: int) -> np.ndarray:
        """So many new slots [count] whose items are gone already: for rows of a saved tree that are tombstones."""
        self.reserve(count)
        slots = np.arange(self.view.used, self.view.used + count)
        self.view.died[slots], self.view.born[slots] = 0, 0
        self._show(used=self.view.used + count)
        return slots

    def drop(self, ids: np.ndarray) -> np.ndarray:
        """One update: these items are gone. Returns the slots that died: fewer than ids where some were unknown."""
        update = self.view.sequence + 1
        gone = self._forget(ids, update)
        self._show(sequence=update, size=self.view.size - len(gone))
        return gone

    def _forget(self, ids: np.ndarray, update: int) -> np.ndarray:
        gone = np.array([s for s in (self.slot_of.pop(i, -1) for i in ids.tolist()) if s >= 0], np.int64)
        self.view.died[gone] = update
        return gone

    def _add_fresh(self, slots: np.ndarray, vectors: np.ndarray) -> None:
        if self._last + len(slots) > len(self._fresh):
            count = self._last - self._first
            larger = np.empty(max(2 * (count + len(slots)), 1024), np.int64)
            larger_vectors = np.empty((len(larger), self._fresh_vectors.shape[1]), np.float32)
            larger[:count] = self._fresh[self._first : self._last]
            larger_vectors[:count] = self._fresh_vectors[self._first : self._last]
            self._fresh, self._fresh_vectors, self._first, self._last = larger, larger_vectors, 0, count
        end = self._last + len(slots)
        self._fresh[self._last : end], self._fresh_vectors[self._last : end] = slots, vectors
        self._last = end

    def take_fresh(self, count: int) -> np.ndarray:
        """The first so many fresh slots, which are no longer among them."""
        taken = self._fresh[self._first : min(self._first + count, self._last)]
        self._first += len(taken)
        self._show()
        return taken

    def set_fresh(self, slots: np.ndarray) -> None:
        """These are the fresh ones now."""
        self._first = self._last = len(self._fresh)  # what a search reads stays
        self._add_fresh(slots, self.view.vectors[slots])
        self._show()

    def retire(self, slots: np.ndarray) -> None:
        """These dead slots are in no tree and not among the fresh: to be used again once nobody can be reading them."""
        if len(slots):
            self._retired.append(slots)

    def set_retired(self, slots: np.ndarray) -> None:
        self._retired = [slots]

    def release_retired(self) -> None:
        """To be called while nobody reads."""
        for slots in self._retired:
            self.view.born[slots] = NEVER  # before they are written again, for a reader of any update
            self._free.extend(slots.tolist())
        self._retired = []

    def _show(self, **changes: object) -> None:
        """One assignment: a reader has either view."""
        now = {**self.view.__dict__, **changes}
        now["fresh"] = self._fresh[self._first : self._last]
        now["fresh_vectors"] = self._fresh_vectors[self._first : self._last]
        self.view = View(**now)
