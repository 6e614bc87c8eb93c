"""Metrics of top-K lists under full ranking: every item of the catalogue competes, none is sampled.

Sampled negatives rank models differently than the whole catalogue does (W. Krichene and S. Rendle, "On Sampled Metrics
for Item Recommendation", KDD 2020).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from inputs.ragged import Ragged


def hits_of(top: np.ndarray, relevant: Ragged) -> np.ndarray:
    """[Q, K] bool: whether each place of `top` [Q, K] (positions, -1: none) holds a relevant item of its query."""
    span = int(max(top.max(initial=0), relevant.values.max(initial=0))) + 1
    right = np.unique(relevant.row_of_value() * span + relevant.values)
    asked = np.arange(len(top))[:, np.newaxis] * span + top
    places = np.searchsorted(right, asked)
    found = right[np.minimum(places, len(right) - 1)] == asked if len(right) else np.zeros(top.shape, bool)
    return found & (top >= 0)


def recall(hits: np.ndarray, relevant: Ragged, k: int) -> np.ndarray:
    """[Q]: share of a query's relevant items that its first k places hold."""
    return hits[:, :k].sum(axis=1) / relevant.lengths


def hit_rate(hits: np.ndarray, k: int) -> np.ndarray:
    """[Q]: 1 where the first k places hold any relevant item."""
    return np.asarray(hits[:, :k].any(axis=1), np.float64)


def ndcg(hits: np.ndarray, relevant: Ragged, k: int) -> np.ndarray:
    """[Q]: binary gains discounted by log2(rank + 1), over those of the best possible first k places (K. Järvelin and
    J. Kekäläinen, TOIS 2002)."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(relevant.lengths, k) - 1]
    width = min(k, hits.shape[1])
    return np.asarray(hits[:, :width] @ discounts[:width] / ideal)


def reciprocal_rank(hits: np.ndarray) -> np.ndarray:
    """[Q]: 1 / rank of the first relevant item; 0 where there is none."""
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)


def intra_list_diversity(top: np.ndarray, categories: csr_matrix, k: int) -> np.ndarray:
    """[Q]: mean of 1 - Jaccard similarity of the category sets of all pairs in the first k places (two items without
    any category are alike); NaN where fewer than two items are shown.

    top: [Q, K] positions, -1: none. categories: [N, C] sparse, nonzero where an item has a category; one that stands
    twice (two rare tags that are both out-of-vocabulary) counts once.
    """
    sets = categories.astype(bool)
    sets.sum_duplicates()
    categories = sets.astype(np.float64)
    top = top[:, :k]
    values = np.empty(len(top))
    sizes = np.asarray(categories.sum(axis=1)).ravel()
    for row, items in enumerate(top):  # pairs of one list at a time: K x K, never Q x K x K
        shown = items[items >= 0]
        if len(shown) < 2:
            values[row] = np.nan
            continue
        common = (categories[shown] @ categories[shown].T).toarray()
        union = sizes[shown][:, None] + sizes[shown][None, :] - common
        similar = np.where(union > 0, common / np.maximum(union, 1), 1.0)
        pairs = np.triu_indices(len(shown), 1)
        values[row] = 1.0 - similar[pairs].mean()
    return values


def shown_by_cluster(top: np.ndarray, codes: np.ndarray, clusters: int, num_items: int, k: int) -> csr_matrix:
    """[clusters, N] sparse 0/1: which items the first k places of each cluster's lists show. codes: [Q] in
    0..clusters-1."""
    items = top[:, :k]
    keep = items >= 0
    rows = np.broadcast_to(codes[:, np.newaxis], items.shape)[keep]
    matrix = csr_matrix((np.ones(len(rows)), (rows, items[keep])), (clusters, num_items))
    matrix.data[:] = 1.0
    return matrix


def coverage_without_each(shown: csr_matrix) -> tuple[float, np.ndarray]:
    """(share of the catalogue shown to anybody, [clusters] the same without each cluster in turn)."""
    times = np.asarray(shown.sum(axis=0)).ravel()
    covered = float((times > 0).sum())
    alone = np.asarray(shown @ (times == 1).astype(np.float64)).ravel()
    return covered / shown.shape[1], (covered - alone) / shown.shape[1]
