"""Confidence intervals: deterministic, as wide as clustered data need, and honest where there is nothing to measure."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import bootstrap
from evaluation.bootstrap import ClusterBootstrap, Interval, lead
from evaluation.jackknife import jackknife
from evaluation.metrics import coverage_without_each, shown_by_cluster


def clustered(rng, users=50, effect=1.0):
    """(users, values) of unequally many rows each; the true mean is 0."""
    of_row = np.repeat(np.arange(users), rng.integers(1, 9, users))
    return of_row, effect * rng.normal(size=users)[of_row] + 0.5 * rng.normal(size=len(of_row))


def test_nominal_95_percent_intervals_cover_about_95_percent_and_naive_ones_do_not():
    rng = np.random.default_rng(0)
    covered = naive_covered = wider = 0
    trials = 300
    for trial in range(trials):
        users, values = clustered(rng)
        by_user = ClusterBootstrap(users, 300, seed=trial).mean(values)
        by_row = ClusterBootstrap(np.arange(len(values)), 300, seed=trial).mean(values)
        covered += by_user.low <= 0 <= by_user.high
        naive_covered += by_row.low <= 0 <= by_row.high
        wider += by_user.high - by_user.low > by_row.high - by_row.low
    assert 0.90 <= covered / trials <= 0.98  # the percentile interval of 50 users is a little short
    assert naive_covered / trials < 0.85
    assert wider / trials > 0.95


def test_confidence_is_what_was_asked():
    users, values = clustered(np.random.default_rng(1))
    widths = [np.diff(ClusterBootstrap(users, 500, level).mean(values)[1:])[0] for level in (0.5, 0.9, 0.99)]
    assert widths == sorted(widths)
    assert widths[0] > 0


def test_the_same_seed_draws_the_same_whatever_is_held_at_a_time(monkeypatch):
    users, values = clustered(np.random.default_rng(2))
    interval = ClusterBootstrap(users, 200, seed=5).mean(values)
    assert ClusterBootstrap(users, 200, seed=5).mean(values) == interval
    assert ClusterBootstrap(users, 200, seed=6).mean(values) != interval
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * 50)
    np.testing.assert_allclose(ClusterBootstrap(users, 200, seed=5).mean(values), interval, rtol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(-5, 5)), min_size=1, max_size=15))
def test_resampling_equals_drawing_whole_clusters_one_by_one(rows):
    clusters = np.array([cluster for cluster, _ in rows])
    values = np.array([np.nan if value is None else value for _, value in rows], float)
    got = ClusterBootstrap(clusters, 100, seed=4).mean(values)
    names = sorted(set(clusters.tolist()))
    known = [value for value in values if not np.isnan(value)]
    if not known:
        assert np.isnan(got).all()
        return
    assert got.value == pytest.approx(np.mean(known))
    if len(set(clusters[~np.isnan(values)].tolist())) < 2:
        assert np.isnan(got[1:]).all()
        return
    means = []
    for drawn in np.random.default_rng(4).integers(0, len(names), size=(100, len(names))):
        pooled = np.concatenate([values[clusters == names[code]] for code in drawn])
        pooled = pooled[~np.isnan(pooled)]
        if len(pooled):
            means.append(pooled.mean())
    np.testing.assert_allclose(got[1:], np.quantile(means, [0.025, 0.975]), atol=1e-12)


def test_a_ratio_of_sums():
    users, values = clustered(np.random.default_rng(3))
    weights = np.random.default_rng(4).random(len(values))
    weighted = ClusterBootstrap(users, 200).of_sums(lambda s: s[0] / s[1], values * weights, weights)
    assert weighted.value == pytest.approx(np.average(values, weights=weights))
    assert weighted.low < weighted.value < weighted.high


def test_a_lead_pairs_the_same_queries():
    rng = np.random.default_rng(5)
    users, hard = clustered(rng, effect=3.0)  # the queries differ far more than the models do
    a, b = hard + 0.1 + 0.05 * rng.normal(size=len(hard)), hard
    ahead = lead(a, b, users, 300)
    assert 0 < ahead.low < 0.1 < ahead.high < 0.2
    apart = [ClusterBootstrap(users, 300).mean(values) for values in (a, b)]
    assert apart[0].low < apart[1].high  # unpaired, the intervals overlap
    behind = lead(b, a, users, 300)
    np.testing.assert_allclose(behind, [-ahead.value, -ahead.high, -ahead.low])
    a[0] = np.nan
    assert lead(a, b, users, 300).value == pytest.approx((a[1:] - b[1:]).mean())


def test_nothing_measured_is_null_in_json():
    none = ClusterBootstrap(np.array([1, 2]), 100).mean(np.array([np.nan, np.nan]))
    assert json.dumps(none.to_json()) == '{"value": null, "low": null, "high": null}'
    assert np.isnan(ClusterBootstrap(np.array([], np.int64), 100).mean(np.array([]))).all()
    one = ClusterBootstrap(np.array([3, 3]), 100).mean(np.array([1.0, 2.0]))
    assert one.to_json() == {"value": 1.5, "low": None, "high": None}


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(6).random(40)
    left_out = (values.sum() - values) / 39
    got = jackknife(values.mean(), left_out, 0.95)
    reach = 1.959964 * values.std(ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(got, [values.mean(), values.mean() - reach, values.mean() + reach], rtol=1e-6)


def test_the_jackknife_stays_in_bounds_and_owns_up_to_one_cluster():
    assert jackknife(0.9, np.array([0.1, 0.9, 0.9])).high == 1.0
    assert jackknife(0.1, np.array([0.9, 0.1, 0.1])).low == 0.0
    one = jackknife(0.3, np.array([0.0]))
    assert one.value == 0.3
    assert np.isnan(one[1:]).all()
    assert np.isnan(jackknife(np.nan, np.array([0.1, 0.2]))).all()


def test_coverage_intervals_hold_the_expected_coverage_and_the_value():
    """A bootstrap's would not even hold the value: a resample shows fewer items than the sample did."""
    rng = np.random.default_rng(7)
    users, items, k = 40, 150, 3
    popularity = 1 / np.arange(1, items + 1)

    def measured() -> Interval:
        top = np.argsort(-np.log(popularity) + np.log(rng.exponential(size=(users, items))), axis=1)[:, :k]
        shown = shown_by_cluster(top, np.arange(users), users, items, k)
        return jackknife(*coverage_without_each(shown))

    intervals = [measured() for _ in range(400)]
    expected = np.mean([interval.value for interval in intervals])
    assert np.mean([interval.low <= expected <= interval.high for interval in intervals]) > 0.93
    assert all(interval.low <= interval.value <= interval.high for interval in intervals)
    assert np.mean([interval.high - interval.low for interval in intervals]) < 0.2
