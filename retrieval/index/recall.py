"""Exact search, and how much of it an index must find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort

_ROWS = 1 << 16
_ROUNDING = 1e-5  # of a score: between two ways of summing the same product


class TopK:
    """The k best of what is seen block by block, ties by id. `ids` [Q, <= k] int64, `scores` [Q, <= k], best first."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.ids = np.empty((queries, 0), np.int64)
        self.scores = np.empty((queries, 0), np.float32)

    def see(self, scores: np.ndarray, ids: np.ndarray) -> None:
        """scores: [Q, n] of the candidates `ids` [n]."""
        ids = np.broadcast_to(ids, scores.shape)
        if scores.shape[1] > 4 * self._k:  # most are worse than the best k of their own block
            least = -np.partition(-scores, self._k - 1, axis=1)[:, self._k - 1]
            kept = (scores >= least[:, np.newaxis]).any(axis=0)
            scores, ids = scores[:, kept], ids[:, kept]
        scores, ids = np.hstack([self.scores, scores]), np.hstack([self.ids, ids])
        order = np.lexsort((ids, -scores), axis=1)[:, : self._k]
        self.ids, self.scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def exact_search(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` largest inner products by looking at all of them: the reference.

    vectors [N, D], queries [Q, D] float32; N >= k. Returns (positions [Q, k] int64, scores [Q, k]), best first, ties
    by position.
    """
    best = TopK(len(queries), k)
    for start in range(0, len(vectors), _ROWS):
        block = queries @ vectors[start : start + _ROWS].T
        best.see(block, np.arange(start, start + block.shape[1]))
    return best.ids, best.scores


def recall_of(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of each row of `wanted` [Q, k] that is in the same row of `found` [Q, any], filled up with -1."""
    ids = np.unique(wanted)
    places = np.searchsorted(ids, found).clip(max=len(ids) - 1)
    found = np.where(ids[places] == found, places, -1)  # small numbers, so that (row, number) fits into one
    wanted = np.searchsorted(ids, wanted)
    rows = np.arange(len(wanted))[:, np.newaxis]
    span = len(ids) + 1  # so that a row's -1 is none of the row before
    return float(np.isin(rows * span + wanted, rows * span + found).mean())


def shares_found(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[Q] float64: what share of the k best was found, where any of those that tie with the k-th will do.

    scores: [Q, any], true ones of what was found, each item once; -inf where nothing was. wanted: [Q, k], of the k
    best, best first.
    """
    least = wanted[:, -1:] - _ROUNDING * np.abs(wanted[:, -1:])
    return np.minimum((scores >= least).sum(axis=1), wanted.shape[1]) / wanted.shape[1]


def recall_by_leaves(searcher: Searcher, queries: np.ndarray, wanted: np.ndarray) -> Callable[[int], float]:
    """What share of `wanted` [Q, k] a tree finds for queries [Q, D], by leaves to search; it reorders as it is set."""
    assert searcher.setting is not None
    reorder = searcher.setting.reorder

    def recall(leaves_to_search: int) -> float:
        return recall_of(searcher.search(queries, wanted.shape[1], Effort(leaves_to_search, reorder))[0], wanted)

    return recall


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
