"""Confidence intervals by the cluster bootstrap: whole users are resampled, all of a user's queries together.

Queries of one user are not independent; resampling them one by one would make every interval too narrow. Source:
A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8; percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_CELLS = 1 << 22  # resampling weights held at a time: 32 MB


class Interval(NamedTuple):
    """A value and the two ends of its confidence interval; NaN where nothing could be measured.

    A single cluster has a value but says nothing of the spread: then only the ends are NaN.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """{"value", "low", "high"}, null for NaN, which JSON does not have."""
        return {name: None if np.isnan(end) else float(end) for name, end in self._asdict().items()}


class ClusterBootstrap:
    """Resamples clusters with replacement; the same (clusters, samples, seed) always draws the same resamples.

    clusters: [n] integers, the cluster (user) of each row.
    """

    def __init__(self, clusters: np.ndarray, samples: int = 1000, confidence: float = 0.95, seed: int = 0) -> None:
        names, self.codes = np.unique(clusters, return_inverse=True)
        self.size = len(names)
        self.samples, self.confidence, self.seed = samples, confidence, seed

    def mean(self, values: np.ndarray) -> Interval:
        """The mean of `values` [n]; NaN values count as not measured."""
        known = ~np.isnan(values)
        return self.of_sums(lambda sums: sums[0] / sums[1], np.where(known, values, 0.0), known)

    def of_sums(self, statistic: Callable[[np.ndarray], np.ndarray], *columns: np.ndarray) -> Interval:
        """A smooth function of sums over rows.

        Args:
          statistic: takes sums [len(columns), any] float64 and gives one value for each of `any`.
          columns: each [n], summed over the rows of a resample. A cluster whose rows are 0 in all of them counts as not
            measured.
        """
        if self.size == 0:
            return Interval(np.nan, np.nan, np.nan)
        per_cluster = np.stack([np.bincount(self.codes, column, minlength=self.size) for column in columns], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold nothing known: NaN, left out below
            value = float(statistic(per_cluster.sum(axis=0)[:, None])[0])
            resampled = statistic(self._resampled_sums(per_cluster).T)
        resampled = resampled[np.isfinite(resampled)]
        if not np.isfinite(value) or len(resampled) == 0:
            return Interval(np.nan, np.nan, np.nan)
        if np.count_nonzero(per_cluster.any(axis=1)) < 2:
            return Interval(value, np.nan, np.nan)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return Interval(value, float(low), float(high))

    def _resampled_sums(self, per_cluster: np.ndarray) -> np.ndarray:
        """[samples, columns]: the sums of each resample, as how often each cluster was drawn times its own sums."""
        random = np.random.default_rng(self.seed)
        at_once = max(1, _CELLS // self.size)
        parts = []
        for start in range(0, self.samples, at_once):
            rows = min(at_once, self.samples - start)
            drawn = random.integers(0, self.size, size=(rows, self.size))
            drawn += np.arange(rows)[:, None] * self.size
            times = np.bincount(drawn.ravel(), minlength=rows * self.size).reshape(rows, self.size)
            parts.append(times @ per_cluster)
        return np.concatenate(parts)


def lead(
    per_query_a: np.ndarray,
    per_query_b: np.ndarray,
    users: np.ndarray,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How far a is ahead of b: the interval of the mean paired difference over the same queries.

    Args:
      per_query_a, per_query_b: [Q] values of one metric.
      users: [Q], the clusters.
    Queries where either is NaN count as not measured. "Ahead outside the confidence interval" means `low` > 0.
    """
    return ClusterBootstrap(users, samples, confidence, seed).mean(np.asarray(per_query_a) - np.asarray(per_query_b))
