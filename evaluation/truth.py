"""Judging by the truth of a simulated world, which real logs never show: what users would truly make of a slate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import spearmanr

Satisfaction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def slate_satisfaction(top: np.ndarray, satisfaction: Satisfaction, k: int) -> np.ndarray:
    """[Q] float64: mean true satisfaction with what the first `k` places show; NaN where they show nothing.

    Args:
      top: [Q, K] positions, -1: none (anywhere in the row; a gap is left out of the mean, not counted as zero).
      satisfaction: takes the rows of `top` and the item positions of all shown pairs, both [pairs] int64, and gives
        their expected satisfaction [pairs]. Called once; not at all where nothing is shown.
      k: places that count; a list shorter than `k` is averaged over what it shows.
    """
    rows, places = np.nonzero(top[:, :k] >= 0)
    if not len(rows):
        return np.full(len(top), np.nan)
    shown = np.bincount(rows, minlength=len(top))
    total = np.bincount(rows, satisfaction(rows, top[rows, places]), minlength=len(top))
    return np.where(shown > 0, total / np.maximum(shown, 1), np.nan)


def rank_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two [n] arrays, ties at their mean rank, over the pairs where both are finite; NaN
    where fewer than two such pairs exist or one side is constant: then there is no order to agree on."""
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = np.asarray(a)[finite], np.asarray(b)[finite]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)
