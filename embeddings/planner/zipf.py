"""How many different ids a step looks up, when ids follow a bounded Zipf law."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_HEAD = 256  # ranks summed one by one; what comes after is smooth enough for an integral
_RULE = np.polynomial.legendre.leggauss(64)  # nodes in [-1, 1] and weights, over the logarithm of the rank


class BoundedZipf:
    """Ids 1..rows, the k-th most frequent with probability k^-alpha / sum of j^-alpha; alpha 0: all alike.

    Sums over ranks take the first 256 one by one and the rest as an integral over log k (midpoint rule, then
    Gauss-Legendre), so that a billion rows cost as much as a few thousand. The relative error stays below 1e-4.
    """

    def __init__(self, rows: int, alpha: float) -> None:
        self.rows, self.alpha = rows, alpha
        self._ranks, self._weights = _quadrature(0, rows)
        powers = self._ranks**-alpha
        self._total = float(powers @ self._weights)
        self._probabilities = powers / self._total

    def distinct(self, draws: float) -> float:
        """The expected number of different ids among so many independent draws."""
        return float(_seen(self._probabilities, draws) @ self._weights)

    def distinct_hottest(self, draws: float, hottest: int) -> float:
        """The same, counting only ids among the so many most frequent."""
        ranks, weights = _quadrature(0, min(hottest, self.rows))
        return float(_seen(ranks**-self.alpha / self._total, draws) @ weights)

    def share(self, hottest: int) -> float:
        """The probability that a draw is among the so many most frequent ids."""
        ranks, weights = _quadrature(0, min(hottest, self.rows))
        return min(float(ranks**-self.alpha @ weights) / self._total, 1.0)

    def hottest_with(self, share: float) -> int:
        """About how many of the most frequent ids have so much of the probability together: the sum of k^-alpha taken
        as an integral."""
        flatness = 1.0 - self.alpha
        if abs(flatness) < 1e-6:
            return max(round(self.rows**share), 1)
        return max(round((1.0 + share * (self.rows**flatness - 1.0)) ** (1.0 / flatness)), 1)


def _seen(probabilities: np.ndarray, draws: float) -> np.ndarray:
    """The probability that each id is drawn at least once: 1 - (1 - p)^draws."""
    with np.errstate(divide="ignore"):  # a table of one row: p is 1
        return -np.expm1(draws * np.log1p(-np.minimum(probabilities, 1.0)))


@lru_cache(maxsize=4_096)
def _quadrature(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks in (first, last] and their weights, for sums of a function of the rank."""
    head = np.arange(first + 1, min(last, first + _HEAD) + 1, dtype=np.float64)
    if last <= first + _HEAD:
        return head, np.ones_like(head)
    nodes, weights = _RULE
    low, high = math.log(first + _HEAD + 0.5), math.log(last + 0.5)
    ranks = np.exp((high - low) / 2 * nodes + (high + low) / 2)
    return np.concatenate([head, ranks]), np.concatenate([np.ones_like(head), (high - low) / 2 * weights * ranks])


@lru_cache(maxsize=16_384)
def zipf(rows: int, alpha: float) -> BoundedZipf:
    """The law, made once."""
    return BoundedZipf(rows, alpha)


def fitted_alpha(rows: int, draws: int, distinct: int) -> float:
    """The exponent, from 0 to 3, under which so many draws are expected to hit so many different ids."""
    low, high = 0.0, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        if BoundedZipf(rows, middle).distinct(draws) > distinct:
            low = middle
        else:
            high = middle
    return round((low + high) / 2, 3)
