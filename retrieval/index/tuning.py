"""Exact search, and how much of it an index must find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_ROWS = 1 << 16


def exact_search(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` largest inner products by looking at all of them: the reference.

    vectors [N, D], queries [Q, D] float32; N >= k. Returns (positions [Q, k] int64, scores [Q, k]), best first, ties
    by position.
    """
    positions = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), _ROWS):
        block = queries @ vectors[start : start + _ROWS].T
        here = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        positions, scores = np.hstack([positions, here]), np.hstack([scores, block])
        order = np.lexsort((positions, -scores), axis=1)[:, :k]
        positions, scores = np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1)
    return positions, scores


def recall_of(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of each row of `wanted` [Q, k] that is in the same row of `found` [Q, any], filled up with -1."""
    rows = np.arange(len(wanted))[:, np.newaxis]
    span = int(max(found.max(initial=0), wanted.max(initial=0))) + 2  # so that a row's -1 is none of the row before
    return float(np.isin(rows * span + wanted, rows * span + found).mean())


def tune_leaves_to_search(recall: Callable[[int], float], leaves: int, target: float) -> tuple[int, float]:
    """The fewest leaves to search, by doubling and then halving the gap, whose measured recall reaches `target`.

    Returns (leaves_to_search, its recall); all leaves when even they fall short (quantisation then bounds recall).
    """
    low, high = 0, 1
    while high < leaves and recall(high) < target:
        low, high = high, min(2 * high, leaves)
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        if recall(middle) < target:
            low = middle
        else:
            high = middle
    return high, recall(high)
