"""A rank's part of a global batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """A rank's part of global batch `k` of an epoch. units: [n] its own; whole: [B] the batch's; rows: how many the
    part is filled up to."""

    units: np.ndarray
    whole: np.ndarray
    rows: int
    epoch: int = 0
    k: int = 0
    rank: int = 0
    world_size: int = 1

    def slice_of(self, count: int) -> slice:
        """This rank's of `count` things that all ranks share out."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)
