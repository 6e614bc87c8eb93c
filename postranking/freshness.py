"""The freshness boost."""

from __future__ import annotations

import numpy as np


def freshness(ages_days: np.ndarray, half_life_days: float) -> np.ndarray:
    """[C] float64 in [0, 1]: 2 ** -(age / half-life). An unknown age (NaN) is not fresh: 0. An age below 0, an item
    published after "now", counts as 0 days."""
    known = np.where(np.isnan(ages_days), np.inf, np.maximum(ages_days, 0.0))
    return np.exp2(-known / half_life_days)
