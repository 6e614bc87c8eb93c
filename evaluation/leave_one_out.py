"""The leave-one-out protocol of SASRec and most sequential recommenders, so that published figures can be set next to
ours. It is not what headrace judges by: docs/benchmarks.md says why.

Source: W.-C. Kang and J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section IV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import ClusterBootstrap, Interval
from evaluation.config import EvaluationConfig
from evaluation.harness import Scorer
from evaluation.protocol import InteractionLog, Queries
from foundation.errors import UserError
from inputs.interactions import Interactions
from inputs.ragged import gather_ranges

SHORTEST = 3  # positives of a user who is asked about; all that others liked is trained on
SAMPLED = 100  # negatives that a right answer is ranked among
CUTOFF = 10
QUERIES_AT_ONCE = 1_024


@dataclass(frozen=True)
class LeaveOneOut:
    """training: positives in time order, without the two held out of each user asked about. validation: the last but
    one of each, given what came before; test: the last, given all the others."""

    training: Interactions
    validation: Queries
    test: Queries


def leave_one_out(interactions: InteractionLog, history_length: int) -> LeaveOneOut:
    """Splits each known user's positives, in the order of the log; a user's second positive on an item is left out.

    A user's positives of one second are taken to be a second apart, so that what came before one is what stands before
    it in the log, in training as in a query: papers know the order alone.

    history_length: of a query, its latest positives.

    Raises:
      UserError: no user has three positives on different items.
    """
    users, items, times = _first_of_each(interactions)
    times = _apart(users, times)
    begins = np.searchsorted(users, users, side="left")
    ends = np.searchsorted(users, users, side="right")
    asked = np.unique(users[ends - begins >= SHORTEST])
    if not len(asked):
        raise UserError("leave-one-out: no user liked three different items.", "Use a log with longer histories.")
    held_out = (ends - begins >= SHORTEST) & (np.arange(len(users)) >= ends - 2)
    kept = np.flatnonzero(~held_out)
    order = kept[np.argsort(times[kept], kind="stable")]
    starts, stops = np.searchsorted(users, asked, side="left"), np.searchsorted(users, asked, side="right")

    def queries(places: np.ndarray) -> Queries:
        histories = gather_ranges(items, np.maximum(starts, places - history_length), places)
        seen, relevant = gather_ranges(items, starts, places), gather_ranges(items, places, places + 1)
        return Queries(asked, times[places], histories, seen, relevant)

    training = Interactions(users[order], items[order], times[order])
    return LeaveOneOut(training, queries(stops - 2), queries(stops - 1))


def sampled_metrics(
    scorer: Scorer, queries: Queries, num_items: int, config: EvaluationConfig, seed: int = 0
) -> dict[str, Interval]:
    """{"sampled_hit_rate@10", "sampled_ndcg@10"}: each query's right answer ranked among 100 items drawn evenly from
    those that its user has not liked. A negative that ties with it counts as better.

    Such metrics rank models otherwise than the whole catalogue does (W. Krichene and S. Rendle, KDD 2020).

    Raises:
      UserError: the catalogue holds too few items that a user has not liked.
    """
    negatives = _negatives(queries, num_items, seed)
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = np.arange(start, min(start + QUERIES_AT_ONCE, len(queries)))
        scores = scorer.scores(queries.take(rows))
        right = np.take_along_axis(scores, queries.relevant.values[rows, None], axis=1)
        ranks[rows] = (np.take_along_axis(scores, negatives[rows], axis=1) >= right).sum(axis=1)
    hits = ranks < CUTOFF
    clusters = ClusterBootstrap(queries.users, config.bootstrap_samples, config.confidence, seed)
    return {
        f"sampled_hit_rate@{CUTOFF}": clusters.mean(hits.astype(np.float64)),
        f"sampled_ndcg@{CUTOFF}": clusters.mean(np.where(hits, 1.0 / np.log2(ranks + 2), 0.0)),
    }


def _first_of_each(interactions: InteractionLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users, items, times) of known users' first positive on each item, by user, then in the order of the log."""
    known = np.flatnonzero(interactions.users > 0)
    order = known[np.argsort(interactions.users[known], kind="stable")]
    users, items, times = (column[order] for column in (interactions.users, interactions.items, interactions.times))
    _, first = np.unique(users * (int(items.max(initial=0)) + 1) + items, return_index=True)
    first = np.sort(first)
    return users[first], items[first], times[first]


def _apart(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[n] times that grow with each of a user's rows, by at least a second. users, times: sorted by user, then time."""
    places = np.arange(len(users)) - np.searchsorted(users, users, side="left")
    slack = times - places
    span = int(slack.max(initial=0)) - int(slack.min(initial=0)) + 1
    return np.maximum.accumulate(users * span + slack) - users * span + places


def _negatives(queries: Queries, num_items: int, seed: int) -> np.ndarray:
    """[Q, SAMPLED] positions, each query's different from each other and from all that its user liked."""
    random = np.random.default_rng(seed)
    drawn = np.empty((len(queries), SAMPLED), np.int64)
    for row in range(len(queries)):
        free = np.ones(num_items, bool)
        free[queries.seen.row(row)] = free[queries.relevant.row(row)] = False
        unliked = np.flatnonzero(free)
        if len(unliked) < SAMPLED:
            raise UserError(
                f"leave-one-out: a user has liked all but {len(unliked)} of {num_items} items; {SAMPLED} negatives are "
                "wanted.",
                "Use a larger catalogue, or rank all of it.",
            )
        drawn[row] = random.choice(unliked, SAMPLED, replace=False)
    return drawn
