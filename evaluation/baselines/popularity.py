"""The same list for everybody: by how many liked an item, ever or lately."""

from __future__ import annotations

import numpy as np

from evaluation.baselines.histories import liked_counts
from evaluation.protocol import InteractionLog, Queries

SECONDS_PER_DAY = 86_400


class Popularity:
    """Positives of each item before `until` (seconds)."""

    name = "popularity"

    def __init__(self, interactions: InteractionLog, num_items: int, until: int) -> None:
        self._counts = liked_counts(interactions, num_items, until)

    def scores(self, queries: Queries) -> np.ndarray:
        """[q, N] float32."""
        return np.broadcast_to(self._counts, (len(queries), len(self._counts)))


class RecentPopularity:
    """Positives of each item in the last `days` before the query's own day, counted anew each day: what a trending page
    shows. The last second counted is always before the query. Popularity before that breaks ties."""

    name = "recent_popularity"

    def __init__(self, interactions: InteractionLog, num_items: int, days: float) -> None:
        self._log, self._num_items, self._window = interactions, num_items, int(days * SECONDS_PER_DAY)
        self._of_day: dict[int, np.ndarray] = {}

    def scores(self, queries: Queries) -> np.ndarray:
        """[q, N] float32."""
        days = queries.times // SECONDS_PER_DAY
        for day in set(days.tolist()) - self._of_day.keys():
            until = day * SECONDS_PER_DAY
            recent = _counts(self._log, self._num_items, until - self._window, until)
            ever = _counts(self._log, self._num_items, -(2**62), until)
            self._of_day[day] = (recent + ever / (ever.max(initial=0) + 1.0)).astype(np.float32)
        return np.stack([self._of_day[day] for day in days.tolist()])


def _counts(interactions: InteractionLog, num_items: int, start: int, stop: int) -> np.ndarray:
    first, last = np.searchsorted(interactions.times, [start, stop], side="left")
    return np.bincount(interactions.items[first:last], minlength=num_items)
