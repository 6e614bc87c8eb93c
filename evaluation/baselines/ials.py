"""iALS: matrix factorisation of implicit feedback by alternating least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from evaluation.baselines.histories import history_matrix, liked_counts, liked_matrix, tie_break
from evaluation.protocol import InteractionLog, Queries

_CELLS = 1 << 22  # numbers in a block of gathered factors: 16 MB
TIE_BREAK = 1e-6


@dataclass(frozen=True)
class Factorisation:
    """What iALS minimises, over user factors w and item factors h of `dim` numbers (S. Rendle et al., "Revisiting the
    Performance of iALS on Item Recommendation Benchmarks", RecSys 2022, equations 1 to 4, of Hu et al., ICDM 2008):

      sum over liked (u, i) of (1 - w_u h_i)^2  +  unobserved * sum over all (u, i) of (w_u h_i)^2
      + regularisation * [sum_u (n_u + unobserved N)^nu |w_u|^2  +  sum_i (n_i + unobserved U)^nu |h_i|^2]

    n_u, n_i: how many a user liked, how many liked an item. nu: 1 scales regularisation by frequency, 0 does not.
    deviation: initial factors are normal, of this over sqrt(dim). sweeps: over users, then items.
    """

    dim: int = 64
    unobserved: float = 0.1
    regularisation: float = 0.003
    nu: float = 1.0
    deviation: float = 0.1
    sweeps: int = 10

    def solve(self, liked: csr_matrix, others: np.ndarray) -> np.ndarray:
        """[rows, dim] float32: the best factors of the rows of `liked` [rows, m], given `others` [m, dim]. A row that
        likes nothing is zero."""
        every = self.unobserved * (others.T @ others)
        counts = np.diff(liked.indptr)
        solved = np.zeros((liked.shape[0], self.dim), np.float32)
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        padded = np.concatenate([others, np.zeros((1, self.dim), np.float32)])  # a row of zeros fills up
        start = 0
        while start < len(order):
            rows = order[start : start + self._rows_at_once(counts[order], start)]
            gathered = padded[_columns(liked, rows, int(counts[rows].max()), len(others))]
            matrices = np.matmul(gathered.transpose(0, 2, 1), gathered) + every
            penalty = self.regularisation * (counts[rows] + self.unobserved * liked.shape[1]) ** self.nu
            matrices += penalty.astype(np.float32)[:, None, None] * np.eye(self.dim, dtype=np.float32)
            solved[rows] = np.linalg.solve(matrices, gathered.sum(axis=1)[:, :, None])[:, :, 0]
            start += len(rows)
        return solved

    def _rows_at_once(self, counts: np.ndarray, start: int) -> int:
        """Of rows by ascending count, so many from `start` that neither padded factors nor matrices fill memory."""
        most = max(1, _CELLS // (self.dim * self.dim))
        end = min(start + most, len(counts))
        return max(1, min(end - start, _CELLS // (self.dim * int(counts[end - 1]))))

    def loss(self, liked: csr_matrix, users: np.ndarray, items: np.ndarray) -> float:
        """The objective."""
        rows, columns = liked.nonzero()
        users, items = users.astype(np.float64), items.astype(np.float64)
        observed = np.square(1 - np.einsum("nd,nd->n", users[rows], items[columns])).sum()
        every = self.unobserved * np.sum((users.T @ users) * (items.T @ items))
        of_users = self._norm(users, liked, liked.shape[1])
        of_items = self._norm(items, liked.T.tocsr(), liked.shape[0])
        return float(observed + every + self.regularisation * (of_users + of_items))

    def _norm(self, factors: np.ndarray, liked: csr_matrix, others: int) -> float:
        weights = (np.diff(liked.indptr) + self.unobserved * others) ** self.nu
        return float(weights @ np.square(factors).sum(axis=1))


class IALS:
    """score = w h_i: a query's w is solved for, given the item factors, from its history alone, as a user's is in
    training; so whoever asks may be unknown, and what they liked since counts. Popularity orders what ties at nothing.
    """

    name = "ials"

    def __init__(
        self,
        interactions: InteractionLog,
        num_users: int,
        num_items: int,
        until: int,
        factorisation: Factorisation | None = None,
        seed: int = 0,
    ) -> None:
        self._factorisation = factorisation or Factorisation()
        self._prior = tie_break(liked_counts(interactions, num_items, until), TIE_BREAK)
        liked = liked_matrix(interactions, num_users, num_items, until)
        self.items = factorise(liked, self._factorisation, seed)[1]

    def scores(self, queries: Queries) -> np.ndarray:
        """[q, N] float32."""
        asked = history_matrix(queries.histories, len(self.items))
        return self._factorisation.solve(asked, self.items) @ self.items.T + self._prior


def factorise(liked: csr_matrix, factorisation: Factorisation, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(users [U, dim], items [N, dim]) float32. liked: [U, N] sparse, 1 where liked."""
    by_item = liked.T.tocsr()
    random = np.random.default_rng(seed)
    scale = factorisation.deviation / np.sqrt(factorisation.dim)
    items = (random.standard_normal((liked.shape[1], factorisation.dim)) * scale).astype(np.float32)
    users = np.zeros((liked.shape[0], factorisation.dim), np.float32)
    for _ in range(factorisation.sweeps):
        users = factorisation.solve(liked, items)
        items = factorisation.solve(by_item, users)
    return users, items


def _columns(liked: csr_matrix, rows: np.ndarray, width: int, fill: int) -> np.ndarray:
    """[len(rows), width] the columns that each row likes, filled up with `fill`."""
    starts, counts = liked.indptr[rows], np.diff(liked.indptr)[rows]
    place = np.arange(width)
    there = place < counts[:, None]
    where = np.minimum(starts[:, None] + place, max(len(liked.indices) - 1, 0))
    return np.where(there, liked.indices[where], fill)
