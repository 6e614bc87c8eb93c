"""Item-based nearest neighbours: the classic that many published models do not beat."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from evaluation.baselines.histories import liked_counts, liked_matrix, tie_break
from evaluation.protocol import InteractionLog, Queries

SHRINKAGE = 10.0
TIE_BREAK = 1e-3  # of the smallest similarity: it orders what ties, not what differs
ROWS_AT_ONCE = 4_096


class ItemKNN:
    """score(item) = sum over the history of the shrunk cosine between the two items' sets of users.

    similarity(i, j) = |U_i and U_j| / (sqrt(|U_i| |U_j|) + shrinkage), each item keeping its `neighbours` most similar
    (B. Sarwar et al., WWW 2001; shrinkage as in M. Ferrari Dacrema et al., RecSys 2019, whose tuned ItemKNN outdid most
    neural models they reproduced). The neighbours kept are those of the items in the history. Popularity, scaled to a
    thousandth of the smallest similarity, breaks ties and answers for an empty history.
    """

    name = "item_knn"

    def __init__(
        self,
        interactions: InteractionLog,
        num_users: int,
        num_items: int,
        until: int,
        neighbours: int = 100,
        shrinkage: float = SHRINKAGE,
    ) -> None:
        self._popularity = liked_counts(interactions, num_items, until)
        self._similarity = _similarities(liked_matrix(interactions, num_users, num_items, until), neighbours, shrinkage)
        smallest = self._similarity.data.min(initial=1.0)
        self._tie_break = tie_break(self._popularity, TIE_BREAK * smallest)

    def scores(self, queries: Queries) -> np.ndarray:
        """[q, N] float32."""
        histories = queries.histories
        ones = np.ones(len(histories.values), np.float32)
        asked = csr_matrix((ones, histories.values, histories.row_splits), (len(queries), len(self._popularity)))
        return np.asarray((asked @ self._similarity).todense()) + self._tie_break


def _similarities(liked: csr_matrix, neighbours: int, shrinkage: float) -> csr_matrix:
    """[N, N] each row's `neighbours` largest similarities, a block of rows at a time."""
    sizes = np.sqrt(np.asarray(liked.sum(axis=0)).ravel())
    by_item = liked.T.tocsr()
    data, columns, lengths = [], [], []
    for start in range(0, by_item.shape[0], ROWS_AT_ONCE):
        block = (by_item[start : start + ROWS_AT_ONCE] @ liked).tocsr()
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        values = block.data / (sizes[rows + start] * sizes[block.indices] + shrinkage)
        values[rows + start == block.indices] = 0.0
        order = np.lexsort((block.indices, -values, rows))
        rank = np.arange(len(rows)) - np.repeat(block.indptr[:-1], np.diff(block.indptr))
        kept = order[(rank < neighbours) & (values[order] > 0)]
        data.append(values[kept])
        columns.append(block.indices[kept])
        lengths.append(np.bincount(rows[kept], minlength=block.shape[0]))
    splits = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    matrix = csr_matrix((np.concatenate(data), np.concatenate(columns), splits), (by_item.shape[0],) * 2)
    return matrix.astype(np.float32)
