"""The rows of a retrieval batch that stand beside its positives: sampled items, or the whole catalogue."""

from __future__ import annotations

import numpy as np

from inputs.features import FeatureSpace, Inputs
from inputs.interactions import Interactions
from inputs.part import Part
from inputs.sampling import NEVER, Beside, CatalogueSampler


class StretchShares:
    """Each item's share of the positives of a stretch, which is `length` positives long. log: [positives] float32, of
    each positive's item in its own stretch."""

    def __init__(self, items: np.ndarray, catalogue: int, length: int) -> None:
        stretch = np.arange(len(items)) // length
        self._sizes, self._catalogue = np.bincount(stretch), catalogue
        keys = stretch * catalogue + items
        self._keys, place, self._counts = np.unique(keys, return_inverse=True, return_counts=True)
        self.log = np.log(self._counts[place] / self._sizes[stretch]).astype(np.float32)

    def log_of(self, items: np.ndarray, stretch: int) -> np.ndarray:
        """[n] float32 of items [n] in one stretch; NEVER where it has none of it, or the item is negative."""
        wanted = stretch * self._catalogue + items
        found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        there = (self._keys[found] == wanted) & (items >= 0)
        return np.where(there, np.log(self._counts[found] / self._sizes[stretch]), NEVER).astype(np.float32)


class SampledRows:
    """The items beside the positives of a part of a batch (`Beside`), as model inputs."""

    def __init__(
        self,
        space: FeatureSpace,
        positives: Interactions,
        shares: StretchShares,
        length: int,
        beside: Beside,
        seed: int,
    ) -> None:
        counts = np.bincount(positives.items, minlength=len(space.items))
        self._sampler = CatalogueSampler(beside, counts, space.publication, seed)
        self._space, self._positives, self._shares, self._length = space, positives, shares, length

    def __len__(self) -> int:
        """Of a global batch."""
        return self._sampler.size

    def item_inputs(self, part: Part) -> Inputs:
        """Of the part's own s of the S items, as of the times of rows of the batch: that of item j, of row j mod B."""
        own = part.slice_of(len(self))
        rows = np.arange(own.start, own.stop) % len(part.whole)
        return self._space.item_inputs(np.maximum(self._items(part), 0), self._positives.times[part.whole[rows]])

    def told(self, part: Part) -> Inputs:
        """`sampled_position` [s], NOT_YET where there is none; the logs of an item's share of the stretch's positives,
        `sampled_log_q` [s], and of how often the draws are expected to hold it, `sampled_log_draws` [s]."""
        items, (stretch, moment) = self._items(part), self._stretch(part)
        return {
            "sampled_position": items,
            "sampled_log_q": self._shares.log_of(items, stretch),
            "sampled_log_draws": self._sampler.log_draws(items, moment),
        }

    def log_draws(self, part: Part) -> np.ndarray:
        """[n] float32: the log of how often the draws are expected to hold each of the part's positives' items."""
        return self._sampler.log_draws(self._positives.items[part.units], self._stretch(part)[1])

    def _items(self, part: Part) -> np.ndarray:
        return self._sampler.draw(part.epoch, part.k, self._stretch(part)[1])[part.slice_of(len(self))]

    def _stretch(self, part: Part) -> tuple[int, int]:
        """(its number, the time in seconds of its last positive): a batch is of one stretch."""
        stretch = int(part.whole[0] // self._length)
        last = min((stretch + 1) * self._length, len(self._positives)) - 1
        return stretch, int(self._positives.times[last])
