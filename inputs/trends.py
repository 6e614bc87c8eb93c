"""How much each item was liked up to a day: what a trending page knows, as numbers for models."""

from __future__ import annotations

import numpy as np

from inputs.entities import SECONDS_PER_DAY
from inputs.interactions import Interactions

WINDOWS_DAYS = (1, 7, 30)


class Trends:
    """Positives of an item before the day of a moment, in all and in the last days. An index built once a day knows as
    much; the day's own positives, and the one that is being predicted, are never counted."""

    def __init__(self, interactions: Interactions) -> None:
        order = np.lexsort((interactions.times, interactions.items))
        self._origin = int(interactions.times.min(initial=0)) - 1
        self._span = int(interactions.times.max(initial=0)) - self._origin + 2
        self._keys = self._key(interactions.items[order], interactions.times[order])

    def inputs(self, items: np.ndarray, times: np.ndarray | int) -> dict[str, np.ndarray]:
        """[n] float32 by name, log1p of counts. items: [n] positions; times: [n] seconds, or one moment."""
        items = np.asarray(items, np.int64)
        midnight = np.broadcast_to(np.asarray(times) // SECONDS_PER_DAY * SECONDS_PER_DAY, items.shape)
        until = self._before(items, midnight)
        counts = {"item_positives": until - self._before(items, np.full_like(midnight, self._origin))}
        for days in WINDOWS_DAYS:
            counts[f"item_positives_{days}d"] = until - self._before(items, midnight - days * SECONDS_PER_DAY)
        return {name: np.log1p(count).astype(np.float32) for name, count in counts.items()}

    @staticmethod
    def names() -> list[str]:
        """The names that `inputs` gives."""
        return ["item_positives", *(f"item_positives_{days}d" for days in WINDOWS_DAYS)]

    def _before(self, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._keys, self._key(items, times), side="left")

    def _key(self, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        return items.astype(np.int64) * self._span + np.clip(times - self._origin, 0, self._span - 1)
