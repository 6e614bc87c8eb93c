"""Queries of several vectors: an item's score is its largest inner product with any of them (Li et al., "MIND", CIKM
2019; Cen et al., "ComiRec", KDD 2020). Everywhere [Q, D] are queries of one vector and [Q, M, D] of M."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from foundation.tf import tf
from inputs.ragged import Ragged


def nearest_interest(queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """[B, D]: of each query's vectors [B, M, D] the one with the largest inner product with the row's own candidate
    [B, D]: the interest that the positive is learned by (ComiRec, eq. 9). Which one it is has no gradient."""
    products = tf.einsum("bmd,bd->bm", queries, candidates)
    chosen = tf.argmax(tf.stop_gradient(products), axis=1, output_type=tf.int32)
    return tf.gather(queries, chosen, axis=1, batch_dims=1)


def scores_of(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """[Q, N] float32 scores of candidates [N, D] for queries [Q, D] or [Q, M, D]."""
    if queries.ndim == 2:
        return queries @ candidates.T
    scores = queries[:, 0] @ candidates.T
    for interest in range(1, queries.shape[1]):
        np.maximum(scores, queries[:, interest] @ candidates.T, out=scores)
    return scores


def single(queries: np.ndarray) -> np.ndarray:
    """[Q * M, D]: every vector as a query of its own, as an index is asked."""
    return queries.reshape(-1, queries.shape[-1])


class Searched(Protocol):
    """`retrieval.index.Index` is one."""

    def search_excluding(self, queries: np.ndarray, k: int, excluded: Ragged) -> tuple[np.ndarray, np.ndarray]: ...


def search_interests(index: Searched, queries: np.ndarray, k: int, excluded: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """As `Index.search_excluding`, for queries [Q, D] or [Q, M, D]: (positions [Q, k] int64, scores [Q, k] float32).

    Each vector is searched for k, and what they found is merged by an item's largest score. An item among the best k
    is among the best k of one of its query's vectors, so an exact index loses nothing.
    """
    if queries.ndim == 2:
        return index.search_excluding(queries, k, excluded)
    count, interests = queries.shape[:2]
    rows = np.repeat(np.arange(count), interests)
    found, scores = index.search_excluding(single(queries), k, excluded.take(rows))
    return _merged(found.reshape(count, -1), scores.reshape(count, -1), k)


def _merged(found: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of each row's positions [Q, n] (-1: none), each once, with its largest score."""
    best_first = np.argsort(-scores, axis=1, kind="stable")
    found, scores = (np.take_along_axis(each, best_first, axis=1) for each in (found, scores))
    by_item = np.argsort(found, axis=1, kind="stable")  # of equal positions the best stays first
    ordered = np.take_along_axis(found, by_item, axis=1)
    again = np.zeros(found.shape, bool)
    np.put_along_axis(again, by_item[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    dropped = again | (found < 0)
    kept = np.argsort(dropped, axis=1, kind="stable")[:, :k]
    found, scores, dropped = (np.take_along_axis(each, kept, axis=1) for each in (found, scores, dropped))
    return np.where(dropped, -1, found), np.where(dropped, np.float32(-np.inf), scores)
