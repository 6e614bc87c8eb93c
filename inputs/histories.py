"""What each user did, as it stood at any moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foundation.files import atomic_file
from inputs.interactions import Interactions
from inputs.ragged import Ragged, gather_ranges


class Histories:
    """Positives by user, oldest first. `before` answers what was known strictly before a moment."""

    def __init__(self, interactions: Interactions) -> None:
        order = np.lexsort((np.arange(len(interactions)), interactions.times, interactions.users))
        self._users = interactions.users[order]
        self._items = interactions.items[order]
        self._times = interactions.times[order]
        self._origin = int(self._times.min()) if len(self._times) else 0
        self._span = int(self._times.max()) - self._origin + 2 if len(self._times) else 2
        self._keys = self._key(self._users, self._times)

    def before(self, users: np.ndarray, times: np.ndarray, length: int | None) -> Ragged:
        """Item positions of each user's positives strictly before a time, oldest first, at most the last `length`.

        users: [rows] int64 positions; times: [rows] int64 seconds; length None: all. Ragged of int64.
        """
        users, times = np.asarray(users, np.int64), np.asarray(times, np.int64)
        stops = np.searchsorted(self._keys, self._key(users, times), side="left")
        starts = np.searchsorted(self._users, users, side="left")
        if length is not None:
            starts = np.maximum(starts, stops - length)
        return gather_ranges(self._items, starts, stops)

    @property
    def interactions(self) -> Interactions:
        """What it was made from, in time order again."""
        order = np.argsort(self._times, kind="stable")
        return Interactions(self._users[order], self._items[order], self._times[order])

    def all(self, users: np.ndarray) -> Ragged:
        """Every positive of each user."""
        return self.before(users, np.full(len(users), self._origin + self._span), None)

    def _key(self, users: np.ndarray, times: np.ndarray) -> np.ndarray:
        """User and time as one ordered integer: users up to 2^24 over a century of seconds fit 63 bits."""
        return users.astype(np.int64) * self._span + np.clip(times - self._origin, 0, self._span - 1)

    def save(self, path: Path) -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, users=self._users, items=self._items, times=self._times)

    @classmethod
    def load(cls, path: Path) -> Histories:
        with np.load(path, allow_pickle=False) as stored:
            return cls(Interactions(stored["users"], stored["items"], stored["times"]))
