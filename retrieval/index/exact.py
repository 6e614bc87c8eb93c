"""Exact search over some vectors: all of them, without what a query may not have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inputs.ragged import Ragged

_SCORES_AT_ONCE = 1 << 22
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Denied:
    """Ids that each query must not have: rows of a Ragged of int64, as many as there are queries."""

    ids: Ragged

    @property
    def most(self) -> int:
        return int(self.ids.lengths.max(initial=0))

    def take(self, queries: np.ndarray) -> Denied:
        return Denied(self.ids.take(queries))

    def among(self, ids: np.ndarray) -> np.ndarray:
        """Which of ids [Q, m] are denied to their row's query: [Q, m] bool."""
        known, codes = np.unique(self.ids.values, return_inverse=True)
        if not len(known):
            return np.zeros(ids.shape, bool)
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        row = np.arange(len(ids))[:, np.newaxis] * len(known)
        denied = np.isin(row + place, self.ids.row_of_value() * len(known) + codes)
        return denied & (known[place] == ids)

    def strike(self, scores: np.ndarray, ids: np.ndarray) -> None:
        """Sets scores [Q, n] of what is denied to -inf. ids: [n] int64, distinct, those of the columns."""
        if not len(ids):
            return
        order = np.argsort(ids)
        place = order[np.minimum(np.searchsorted(ids, self.ids.values, sorter=order), len(ids) - 1)]
        there = ids[place] == self.ids.values
        scores[self.ids.row_of_value()[there], place[there]] = -np.inf


def exact_top(
    vectors: np.ndarray,
    rows: np.ndarray | None,
    ids: np.ndarray,
    queries: np.ndarray,
    k: int,
    denied: Denied | None,
    floor: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` largest inner products by looking at all, ties by id (of ties at the edge, any).

    vectors [n, D]; rows: [m] int64, only these of them (None: all). ids: [n], distinct among those looked at. floor:
    [Q] scores below which nothing is wanted. Returns (rows [Q, k] int64, scores [Q, k] float32), -1 and -inf where
    there are fewer; with a floor, so many columns as may be wanted.
    """
    count = len(vectors) if rows is None else len(rows)
    best = np.full((len(queries), 0), -1, np.int64)
    best_scores = np.full((len(queries), 0), -np.inf, np.float32)
    block = max(min(_SCORES_AT_ONCE // max(len(queries), 1), _ROWS_AT_ONCE), 1)
    for start in range(0, count, block):
        here = np.arange(start, min(start + block, count)) if rows is None else rows[start : start + block]
        scores = queries @ (vectors[here[0] : here[-1] + 1] if rows is None else vectors[here]).T
        if denied is not None:
            denied.strike(scores, ids[here])
        wanted = k if floor is None else min(k, int((scores >= floor[:, np.newaxis]).sum(axis=1).max(initial=0)))
        found, found_scores = _largest(scores, wanted)
        best = np.hstack([best, here[found]])
        best_scores = np.hstack([best_scores, found_scores])
        best, best_scores = top_of(best, best_scores, ids, k)
    return padded(best, best_scores, k) if floor is None else (best, best_scores)


def _largest(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the k largest of each row, in no order, and what they are. At the edge, ties are taken at random."""
    if scores.shape[1] <= k:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        return columns, scores
    if not k:
        return np.empty((len(scores), 0), np.int64), np.empty((len(scores), 0), np.float32)
    columns = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
    return columns, np.take_along_axis(scores, columns, 1)


def top_of(rows: np.ndarray, scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of candidates: rows [Q, m] of `ids` (-1: none) and their scores [Q, m]; best first, ties by id."""
    order = np.argsort(-scores, axis=1)
    best = np.take_along_axis(scores, order, 1)
    tied = np.flatnonzero(((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -np.inf)).any(axis=1))
    if len(tied):  # rare, and only these rows are worth the slower sort by two keys
        order[tied] = np.lexsort((ids[np.maximum(rows[tied], 0)], -scores[tied]), axis=1)
    order = order[:, :k]
    rows, scores = np.take_along_axis(rows, order, 1), best[:, :k]
    return np.where(scores == -np.inf, -1, rows), scores


def padded(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same with k columns: -1 and -inf in those that are new."""
    missing = k - rows.shape[1]
    if missing <= 0:
        return rows, scores
    return (
        np.pad(rows, ((0, 0), (0, missing)), constant_values=-1),
        np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
    )
