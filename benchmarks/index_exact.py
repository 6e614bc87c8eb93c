"""Exact search by BLAS and numpy's partition: the peer to beat, and what recall is measured against."""

from __future__ import annotations

import numpy as np

_ROWS = 1 << 14  # of the vectors at once: their products with a batch stay in the caches
_QUERIES = 256


def exact_search(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """[Q, k] int64: rows of `vectors` [N, D] with the largest inner products with `queries` [Q, D], largest first."""
    parts = [_batch(vectors, queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
    return np.concatenate(parts)


def _batch(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    best, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _ROWS):
        scores = queries @ vectors[start : start + _ROWS].T
        if best.shape[1] < k:
            rows = np.broadcast_to(start + np.arange(scores.shape[1]), scores.shape)
        else:
            scores, rows = _above(scores, best.min(axis=1), start)
        best, found = np.hstack([best, scores]), np.hstack([found, rows])
        if best.shape[1] > k:
            kept = np.argpartition(best, -k, axis=1)[:, -k:]
            best, found = np.take_along_axis(best, kept, 1), np.take_along_axis(found, kept, 1)
    return np.take_along_axis(found, np.argsort(-best, axis=1, kind="stable"), 1)


def _above(scores: np.ndarray, least: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of `scores` [Q, n] those above `least` [Q], filled up with -inf to the longest, and their rows."""
    query, place = np.nonzero(scores > least[:, np.newaxis])
    counts = np.bincount(query, minlength=len(scores))
    column = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(scores), int(counts.max(initial=0)))
    values, rows = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    values[query, column], rows[query, column] = scores[query, place], start + place
    return values, rows
