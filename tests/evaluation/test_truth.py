"""Slates judged by true satisfaction, and orders compared."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.truth import rank_agreement, slate_satisfaction

SHOWN = st.lists(st.lists(st.integers(-1, 6), min_size=4, max_size=4), min_size=1, max_size=6)


@settings(deadline=None, max_examples=100)
@given(SHOWN, st.integers(1, 6))
def test_slate_satisfaction_is_the_mean_over_what_is_shown(rows, k):
    truth = np.random.default_rng(0).random((len(rows), 7))
    calls = []

    def satisfaction(queries, items):
        calls.append(len(items))
        return truth[queries, items]

    got = slate_satisfaction(np.array(rows), satisfaction, k)
    for row, items in enumerate(rows):
        known = [truth[row, item] for item in items[:k] if item >= 0]
        np.testing.assert_allclose(got[row], np.mean(known) if known else np.nan)
    assert calls in ([], [sum(item >= 0 for items in rows for item in items[:k])])


def test_no_slate_at_all():
    assert slate_satisfaction(np.empty((0, 3), np.int64), lambda rows, items: np.ones(len(rows)), 3).shape == (0,)


def test_rank_agreement_is_spearmans_over_finite_pairs():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 8, 40).astype(float)
    b = a + rng.normal(size=40) * 3
    a[3], b[7], b[9] = np.nan, np.inf, np.nan
    kept = [row for row in range(40) if math.isfinite(a[row]) and math.isfinite(b[row])]

    def mean_rank(values):
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    expected = np.corrcoef(mean_rank(a[kept]), mean_rank(b[kept]))[0, 1]
    assert rank_agreement(a, b) == pytest.approx(expected)
    assert rank_agreement(a, np.exp(a)) == pytest.approx(1.0)
    assert rank_agreement(a, -a) == pytest.approx(-1.0)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [2.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 1.0], [1.0, 2.0])])
def test_no_order_to_agree_on_is_nan_without_a_warning(a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(rank_agreement(np.array(a), np.array(b)))
