"""Ranking-stage metrics equal the textbook loops over lists."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.bootstrap import ClusterBootstrap
from evaluation.ranking import RankedLists, auc_by_list, binary_metrics, list_ndcg, number_metrics
from inputs.ragged import Ragged

ROW = st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, np.nan]))  # few scores, so that many tie
LISTS = st.lists(st.lists(ROW, max_size=7), min_size=1, max_size=5)


def flat(lists):
    """(scores [R], labels [R], row_splits)."""
    scores = Ragged.from_rows([[score for score, _ in rows] for rows in lists], float)
    labels = Ragged.from_rows([[label for _, label in rows] for rows in lists], float)
    return scores.values, labels.values, scores.row_splits


def naive_auc(rows):
    positive = [score for score, label in rows if label == 1]
    negative = [score for score, label in rows if label == 0]
    if not positive or not negative:
        return math.nan
    won = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    return won / (len(positive) * len(negative))


@settings(deadline=None, max_examples=200)
@given(LISTS)
def test_auc_counts_pairs_with_ties_half(lists):
    auc, rows = auc_by_list(*flat(lists))
    np.testing.assert_allclose(auc, [naive_auc(rows) for rows in lists], rtol=1e-12)
    assert rows.tolist() == [sum(not math.isnan(label) for _, label in rows) for rows in lists]


def ranked(lists, scale=0.2):
    scores, labels, splits = flat(lists)
    predictions = {"click": 0.05 + scale * scores}
    return RankedLists(np.arange(len(lists)), splits, predictions, {"click": labels})


@settings(deadline=None, max_examples=100)
@given(LISTS)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_binary_metrics_equal_their_definitions(lists):
    ranks = ranked(lists)
    got = binary_metrics(ranks, "click", "click", ClusterBootstrap(ranks.users, 100))
    rows = [(0.05 + 0.2 * score, label) for row in lists for score, label in row if not math.isnan(label)]
    weighed = [
        (naive_auc(row), sum(not math.isnan(y) for _, y in row)) for row in lists if not math.isnan(naive_auc(row))
    ]
    assert got["auc_lists"].value == len(weighed)
    if weighed:
        assert got["gauc"].value == pytest.approx(sum(a * n for a, n in weighed) / sum(n for _, n in weighed))
    else:
        assert math.isnan(got["gauc"].value)
    rate = np.mean([label for _, label in rows]) if rows else math.nan
    if not 0 < rate < 1:
        assert math.isnan(got["normalized_entropy"].value)
    else:
        entropy = -np.mean([math.log(p if label else 1 - p) for p, label in rows])
        base = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        assert got["normalized_entropy"].value == pytest.approx(entropy / base)
    if rate > 0:
        assert got["calibration"].value == pytest.approx(np.mean([p for p, _ in rows]) / rate)
    else:
        assert math.isnan(got["calibration"].value)


def test_gauc_sees_only_the_order_within_lists():
    """A prediction that only knows which list is a good one orders nothing within it."""
    labels = np.tile([1.0, 0.0, 0.0], 20)
    splits = np.arange(0, 61, 3)
    lists = RankedLists(np.arange(20), splits, {"p": np.repeat(np.linspace(0.1, 0.9, 20), 3)}, {"y": labels})
    assert binary_metrics(lists, "p", "y", ClusterBootstrap(lists.users, 100))["gauc"] == (0.5, 0.5, 0.5)


def test_certain_predictions_that_are_wrong_stay_finite():
    lists = RankedLists(
        np.arange(2), np.array([0, 2, 4]), {"p": np.array([0, 1, 1, 0], np.float32)}, {"y": np.array([1.0, 0, 1, 0])}
    )
    assert 1 < binary_metrics(lists, "p", "y", ClusterBootstrap(lists.users, 100))["normalized_entropy"].value < 100


def test_the_base_rate_has_entropy_one_and_calibration_one():
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.2).astype(float)
    lists = RankedLists(np.arange(100), np.arange(0, 301, 3), {"p": np.full(300, labels.mean())}, {"y": labels})
    got = binary_metrics(lists, "p", "y", ClusterBootstrap(lists.users, 200))
    assert got["normalized_entropy"].value == pytest.approx(1.0)
    assert got["calibration"].value == pytest.approx(1.0)
    assert got["calibration"].low < 1 < got["calibration"].high


@settings(deadline=None, max_examples=100)
@given(LISTS)
def test_number_metrics_equal_their_definitions(lists):
    ranks = ranked(lists)
    got = number_metrics(ranks, "click", "click", ClusterBootstrap(ranks.users, 100))
    rows = [(0.05 + 0.2 * score, label) for row in lists for score, label in row if not math.isnan(label)]
    if not rows:
        assert math.isnan(got["rmse"].value)
        return
    errors = [(p - label) ** 2 for p, label in rows]
    labels = np.array([label for _, label in rows])
    assert got["rmse"].value == pytest.approx(math.sqrt(np.mean(errors)))
    if labels.std():
        assert got["explained"].value == pytest.approx(1 - np.mean(errors) / labels.var())
    else:
        assert math.isnan(got["explained"].value)


def test_of_labels_that_never_vary_nothing_is_explained():
    """0.1 is no binary fraction: the variance is left at rounding, not at zero."""
    lists = RankedLists(np.arange(50), np.arange(0, 151, 3), {"p": np.full(150, 0.2)}, {"y": np.full(150, 0.1)})
    got = number_metrics(lists, "p", "y", ClusterBootstrap(lists.users, 100))
    assert np.isnan(got["explained"]).all()
    assert got["rmse"].value == pytest.approx(0.1)


GAINS = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 3.0, np.nan])), max_size=7), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=150)
@given(GAINS, st.integers(1, 8))
def test_list_ndcg_equals_its_definition(lists, k):
    scores, labels, splits = flat(lists)
    got = list_ndcg(RankedLists(np.arange(len(lists)), splits, {"value": scores}, {"y": labels}), "value", "y", k)

    def dcg(gains):
        return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:k]))

    for row, rows in enumerate(lists):
        gains = [(score, 0.0 if math.isnan(gain) else gain) for score, gain in rows]
        best = dcg(sorted((gain for _, gain in gains), reverse=True))
        found = dcg([gain for _, gain in sorted(gains, key=lambda pair: -pair[0])])  # a stable sort: ties as logged
        np.testing.assert_allclose(got[row], found / best if best else np.nan)
