"""EASE: a linear item-to-item model in closed form, which few deep models beat on dense logs."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack
from scipy.sparse import csr_matrix

from evaluation.baselines.histories import history_matrix, liked_counts, liked_matrix, tie_break
from evaluation.protocol import InteractionLog, Queries

TIE_BREAK = 1e-6  # at most so much of a score: it answers for what the model says nothing of


class EASE:
    """score = history @ B, with B[i, j] = -P[i, j] / P[j, j], B[j, j] = 0, P = (X'X + regularisation I)^-1, X the
    [users, items] matrix of what was liked before `until` (H. Steck, "Embarrassingly Shallow Autoencoders for Sparse
    Data", WWW 2019, equation 8).

    Only items that somebody liked have a row in B; popularity orders the others, and answers an empty history.

    Memory: two float32 matrices [n, n] of the n items liked; time: about n^3.
    """

    name = "ease"

    def __init__(
        self,
        interactions: InteractionLog,
        num_users: int,
        num_items: int,
        until: int,
        regularisation: float = 100.0,
    ) -> None:
        self._num_items = num_items
        self._prior = tie_break(liked_counts(interactions, num_items, until), TIE_BREAK)
        liked = liked_matrix(interactions, num_users, num_items, until)
        self._items = np.flatnonzero(np.diff(liked.tocsc().indptr))
        self._weights = _weights(liked[:, self._items], regularisation)

    def scores(self, queries: Queries) -> np.ndarray:
        """[q, N] float32."""
        asked = history_matrix(queries.histories, self._num_items)[:, self._items]
        scores = np.tile(self._prior, (len(queries), 1))
        scores[:, self._items] += asked @ self._weights
        return scores


def _weights(liked: csr_matrix, regularisation: float) -> np.ndarray:
    """[n, n] float32: B. The Gram matrix is positive definite, so it is inverted by its Cholesky factor, in place."""
    gram = (liked.T @ liked).toarray(order="F")
    if not gram.size:
        return gram
    np.fill_diagonal(gram, gram.diagonal() + np.float32(regularisation))
    gram, failed = lapack.spotrf(gram, lower=False, overwrite_a=True, clean=True)
    if not failed:
        gram, failed = lapack.spotri(gram, lower=False, overwrite_c=True)
    if failed:
        raise FloatingPointError(f"EASE: X'X + {regularisation:g} I cannot be inverted in float32")
    gram += np.triu(gram, 1).T  # what LAPACK leaves is the upper half
    weights = gram / -gram.diagonal()
    np.fill_diagonal(weights, 0.0)
    return weights
