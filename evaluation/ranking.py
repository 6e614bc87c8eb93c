"""Ranking-stage metrics on whole lists: each objective's prediction and the value they are ranked by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import ClusterBootstrap, Interval
from inputs.ragged import Ragged

_TINY = 1e-7


@dataclass(frozen=True)
class RankedLists:
    """Lists with what a ranker said of their rows.

    users: [L] positions. row_splits: [L + 1]. predictions, labels: [R] float by objective and by label; a label is NaN
    where the log does not say.
    """

    users: np.ndarray
    row_splits: np.ndarray
    predictions: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]


def binary_metrics(lists: RankedLists, prediction: str, label: str, bootstrap: ClusterBootstrap) -> dict[str, Interval]:
    """gauc: mean over lists of the AUC within it, weighted by its rows (H. Zhu et al., "Deep Interest Network", KDD
    2018, by impression); lists without both classes say nothing and are left out. normalized_entropy: cross-entropy
    over that of always predicting the base rate (X. He et al., ADKDD 2014); below 1 is better than knowing nothing.
    calibration: mean prediction over mean label. auc_lists: lists that count for gauc.
    """
    scores, labels = lists.predictions[prediction], lists.labels[label]
    known = ~np.isnan(labels)
    auc, rows = auc_by_list(scores, labels, lists.row_splits)
    weights = np.where(np.isnan(auc), 0.0, rows)
    measured = {"gauc": bootstrap.of_sums(lambda s: s[0] / s[1], np.nan_to_num(auc) * weights, weights)}
    p = np.clip(scores, _TINY, 1 - _TINY)
    y = np.where(known, labels, 0.0)
    entropy = np.where(known, -(y * np.log(p) + (1 - y) * np.log1p(-p)), 0.0)
    sums = [_by_list(column, lists.row_splits) for column in (entropy, y, known.astype(float), np.where(known, p, 0.0))]

    def normalized(s: np.ndarray) -> np.ndarray:
        rate = s[1] / s[2]
        return s[0] / s[2] / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))

    measured["normalized_entropy"] = bootstrap.of_sums(normalized, *sums[:3])
    measured["calibration"] = bootstrap.of_sums(lambda s: s[1] / s[0], sums[1], sums[3])
    count = float(np.count_nonzero(weights))
    measured["auc_lists"] = Interval(count, count, count)
    return measured


def number_metrics(lists: RankedLists, prediction: str, label: str, bootstrap: ClusterBootstrap) -> dict[str, Interval]:
    """rmse, and explained: the share of the label's variance that the prediction explains (R squared; 0 is what always
    predicting the mean gets)."""
    labels = lists.labels[label]
    known = ~np.isnan(labels)
    y = np.where(known, labels, 0.0)
    error = np.where(known, (lists.predictions[prediction] - y) ** 2, 0.0)
    sums = [_by_list(column, lists.row_splits) for column in (error, y, y**2, known.astype(float))]

    def explained(s: np.ndarray) -> np.ndarray:
        spread = s[2] - s[1] ** 2 / s[3]  # of labels that are all the same only rounding is left
        return np.where(spread > 1e-12 * s[2], 1 - s[0] / spread, np.nan)

    return {
        "rmse": bootstrap.of_sums(lambda s: np.sqrt(s[0] / s[1]), sums[0], sums[3]),
        "explained": bootstrap.of_sums(explained, *sums),
    }


def list_ndcg(lists: RankedLists, prediction: str, label: str, k: int) -> np.ndarray:
    """[L] NDCG@k of ranking each list by a prediction, with the label as gain (unknown: 0); NaN where no gain is."""
    gains = np.nan_to_num(lists.labels[label])
    row = Ragged(gains, lists.row_splits).row_of_value()
    got = _dcg(gains, lists.predictions[prediction], row, lists.row_splits, k)
    best = _dcg(gains, gains, row, lists.row_splits, k)
    return np.where(best > 0, got / np.where(best > 0, best, 1.0), np.nan)


def auc_by_list(scores: np.ndarray, labels: np.ndarray, row_splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([L] AUC within each list, ties half; NaN without both classes, [L] its rows with a known label)."""
    known = ~np.isnan(labels)
    row = np.repeat(np.arange(len(row_splits) - 1), np.diff(row_splits))[known]
    s, y = scores[known], labels[known]
    order = np.lexsort((s, row))
    row, s, y = row[order], s[order], y[order]
    count = np.bincount(row, minlength=len(row_splits) - 1)
    start = np.concatenate([[0], np.cumsum(count)])[row]
    new = np.ones(len(s), bool)
    new[1:] = (row[1:] != row[:-1]) | (s[1:] != s[:-1])
    group = np.cumsum(new) - 1
    mean_rank = np.bincount(group, np.arange(len(s)) - start + 1) / np.bincount(group) if len(s) else np.empty(0)
    ranks = mean_rank[group] if len(s) else np.empty(0)
    positives = np.bincount(row, y, minlength=len(count))
    negatives = count - positives
    rank_sum = np.bincount(row, ranks * y, minlength=len(count))
    pairs = positives * negatives
    auc = (rank_sum - positives * (positives + 1) / 2) / np.where(pairs > 0, pairs, 1.0)
    return np.where(pairs > 0, auc, np.nan), count


def _dcg(gains: np.ndarray, scores: np.ndarray, row: np.ndarray, row_splits: np.ndarray, k: int) -> np.ndarray:
    order = np.lexsort((np.arange(len(row)), -scores, row))
    rank = np.arange(len(row)) - row_splits[row[order]]
    discounted = np.where(rank < k, gains[order] / np.log2(rank + 2), 0.0)
    return np.bincount(row[order], discounted, minlength=len(row_splits) - 1)


def _by_list(column: np.ndarray, row_splits: np.ndarray) -> np.ndarray:
    """[L] sums of each list's rows."""
    sums = np.concatenate([[0.0], np.cumsum(column, dtype=np.float64)])
    return sums[row_splits[1:]] - sums[row_splits[:-1]]
