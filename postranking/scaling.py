"""Values of any unit on one scale, so that weights mean the same for every user and model."""

from __future__ import annotations

import numpy as np

_NORMAL_SPREAD = 1.349  # interquartile range of a standard normal distribution
_REACH = 5.0


def robust_scale(values: np.ndarray) -> np.ndarray:
    """[C] float64: (value - median) / spread, softly held within +-5.

    The spread is the interquartile range over 1.349 (1 for a normal distribution), or the standard deviation where
    half of the values are equal; equal values all give 0. One extreme value moves neither median nor spread, and
    x / (1 + |x| / 5) keeps it from drowning diversity and freshness. The order of values is never turned around.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return values
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = (high - low) / _NORMAL_SPREAD or float(values.std())
    if spread == 0.0:
        return np.zeros_like(values)
    scaled = (values - median) / spread
    held = scaled / (1.0 + np.abs(scaled) / _REACH)
    order = np.argsort(values, kind="stable")
    held[order] = np.maximum.accumulate(held[order])  # near the bounds rounding alone could turn two around
    return held
