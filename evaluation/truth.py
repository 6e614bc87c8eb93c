"""Judging by the truth that only a simulated world knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import spearmanr


def slate_satisfaction(
    top: np.ndarray, satisfaction: Callable[[np.ndarray, np.ndarray], np.ndarray], k: int
) -> np.ndarray:
    """[Q] mean true satisfaction of the first k places of each list; NaN for an empty one.

    top: [Q, K] positions, -1: none. satisfaction: (query rows [n], item positions [n]) -> [n].
    """
    shown = top[:, :k]
    rows, places = np.nonzero(shown >= 0)
    values = satisfaction(rows, shown[rows, places])
    counts = np.bincount(rows, minlength=len(top))
    sums = np.bincount(rows, values, minlength=len(top))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def rank_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation over the pairs where both are finite; NaN for fewer than two."""
    known = np.isfinite(a) & np.isfinite(b)
    return float(spearmanr(a[known], b[known]).statistic) if known.sum() > 1 else float("nan")
