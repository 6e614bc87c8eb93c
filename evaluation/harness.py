"""The one harness: models and baselines answer the same queries over the whole catalogue and are judged alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csr_matrix

from evaluation.bootstrap import ClusterBootstrap, Interval, lead
from evaluation.config import EvaluationConfig
from evaluation.jackknife import jackknife
from evaluation.metrics import (
    coverage_without_each,
    hit_rate,
    hits_of,
    intra_list_diversity,
    ndcg,
    recall,
    reciprocal_rank,
    shown_by_cluster,
)
from evaluation.protocol import Queries
from foundation.errors import UserError

CELLS_AT_ONCE = 1 << 25  # scores held at a time: 128 MB of float32


class Scorer(Protocol):
    """Whatever can score the whole catalogue."""

    @property
    def name(self) -> str: ...

    def scores(self, queries: Queries) -> np.ndarray:
        """[q, N] float32, larger is better."""


@dataclass(frozen=True)
class Catalogue:
    """What the harness must know of the items.

    num_items: N. categories: [N, C] multi-hot, for diversity, or None. available_from: [N] int64 seconds at which each
    item appeared: it answers only queries strictly after; or None.
    """

    num_items: int
    categories: csr_matrix | None = None
    available_from: np.ndarray | None = None


@dataclass(frozen=True)
class Evaluation:
    """metrics: by model, by metric. per_query: [Q] values by model and metric, where a metric has them."""

    metrics: dict[str, dict[str, Interval]]
    per_query: dict[str, dict[str, np.ndarray]]
    users: np.ndarray
    config: EvaluationConfig
    seed: int

    def leads(self, over: str, metric: str) -> dict[str, Interval]:
        """How far `over` is ahead of each other model, paired over queries."""
        own = self.per_query[over][metric]
        samples, confidence = self.config.bootstrap_samples, self.config.confidence
        return {
            name: lead(own, values[metric], self.users, samples, confidence, self.seed)
            for name, values in self.per_query.items()
            if name != over
        }

    def to_json(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """As metrics.json holds a stage."""
        return {
            model: {metric: interval.to_json() for metric, interval in metrics.items()}
            for model, metrics in self.metrics.items()
        }


def evaluate(
    scorers: Sequence[Scorer],
    queries: Queries,
    config: EvaluationConfig,
    catalogue: Catalogue,
    seed: int = 0,
    advance: Callable[[int], None] = lambda queries: None,
) -> Evaluation:
    """Judges scorers. What a user has seen, and what did not exist yet, is never an answer. Ties go to the lower
    position. The lists are as long as the last cutoff, and mrr counts a right answer beyond them as 0. advance: called
    with the queries done.

    Raises:
      UserError: there is no query, or a scorer gave NaN or another shape.
    """
    lists = {scorer.name: top_lists(scorer, queries, config.cutoffs[-1], catalogue, advance) for scorer in scorers}
    return evaluate_lists(lists, queries, config, catalogue, seed)


def evaluate_lists(
    lists: dict[str, np.ndarray], queries: Queries, config: EvaluationConfig, catalogue: Catalogue, seed: int = 0
) -> Evaluation:
    """Judges top-K lists [Q, K] by model (positions, -1: none), from an index or a funnel, by the same metrics."""
    if not len(queries):
        raise UserError(
            "the evaluation: no query is left to judge by.", "Use a log that spans more time, or more users."
        )
    clusters = ClusterBootstrap(queries.users, config.bootstrap_samples, config.confidence, seed)
    metrics: dict[str, dict[str, Interval]] = {}
    per_query: dict[str, dict[str, np.ndarray]] = {}
    for name, top in lists.items():
        values = _per_query(top, queries, config, catalogue)
        per_query[name] = values
        metrics[name] = {metric: clusters.mean(value) for metric, value in values.items()}
        for k in config.cutoffs:
            shown = shown_by_cluster(top, clusters.codes, clusters.size, catalogue.num_items, k)
            metrics[name][f"coverage@{k}"] = jackknife(*coverage_without_each(shown), config.confidence)
    return Evaluation(metrics, per_query, queries.users, config, seed)


def top_lists(
    scorer: Scorer,
    queries: Queries,
    k: int,
    catalogue: Catalogue,
    advance: Callable[[int], None] = lambda queries: None,
) -> np.ndarray:
    """[Q, k] int64 best positions of each query, -1 where fewer are allowed; a chunk of queries at a time."""
    top = np.full((len(queries), k), -1, np.int64)
    at_once = max(1, CELLS_AT_ONCE // max(catalogue.num_items, 1))
    for start in range(0, len(queries), at_once):
        rows = np.arange(start, min(start + at_once, len(queries)))
        asked = queries.take(rows)
        scores = np.array(scorer.scores(asked), dtype=np.float32)
        if scores.shape != (len(rows), catalogue.num_items):
            wanted = (len(rows), catalogue.num_items)
            raise UserError(f"scorer '{scorer.name}': scores have shape {scores.shape}, {wanted} is wanted.")
        if np.isnan(scores).any():
            raise UserError(f"scorer '{scorer.name}': some of its scores are NaN.", "Train it again.")
        scores[asked.seen.row_of_value(), asked.seen.values] = -np.inf
        if catalogue.available_from is not None:
            scores[catalogue.available_from[np.newaxis, :] >= asked.times[:, np.newaxis]] = -np.inf
        best = _best(scores, min(k, catalogue.num_items))
        top[rows, : best.shape[1]] = best
        advance(len(rows))
    return top


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """[q, k] positions of the largest scores, best first, ties by position; -1 for a score of -inf."""
    chosen = (
        np.argpartition(-scores, k - 1, axis=1)[:, :k]
        if k < scores.shape[1]
        else np.tile(np.arange(scores.shape[1]), (len(scores), 1))
    )
    # argpartition takes any of those that tie at the border: where there are such, the lowest positions are chosen
    border = np.take_along_axis(scores, chosen, axis=1).min(axis=1)
    tied = np.flatnonzero((scores >= border[:, np.newaxis]).sum(axis=1) > k)
    for row in tied:
        candidates = np.flatnonzero(scores[row] >= border[row])
        chosen[row] = candidates[np.lexsort((candidates, -scores[row, candidates]))[:k]]
    values = np.take_along_axis(scores, chosen, axis=1)
    order = np.lexsort((chosen, -values), axis=1)
    chosen, values = np.take_along_axis(chosen, order, axis=1), np.take_along_axis(values, order, axis=1)
    return np.where(np.isneginf(values), -1, chosen)


def _per_query(
    top: np.ndarray, queries: Queries, config: EvaluationConfig, catalogue: Catalogue
) -> dict[str, np.ndarray]:
    hits = hits_of(top, queries.relevant)
    values: dict[str, np.ndarray] = {}
    for k in config.cutoffs:
        values[f"ndcg@{k}"] = ndcg(hits, queries.relevant, k)
        values[f"recall@{k}"] = recall(hits, queries.relevant, k)
        values[f"hit_rate@{k}"] = hit_rate(hits, k)
    values["mrr"] = reciprocal_rank(hits)
    if catalogue.categories is not None:
        k = config.cutoffs[0]
        values[f"diversity@{k}"] = intra_list_diversity(top, catalogue.categories, k)
    return values
