"""Freshness, scaling, rules and candidates, each on its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from postranking.candidates import Candidates
from postranking.freshness import freshness
from postranking.rules import Caps, admissible
from postranking.scaling import robust_scale

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def test_freshness_halves_every_half_life_and_needs_a_known_age() -> None:
    ages = np.array([0.0, 3.0, 6.0, np.nan, -1.0])
    assert freshness(ages, 3.0).tolist() == [1.0, 0.5, 0.25, 0.0, 1.0]


@settings(deadline=None, max_examples=100)
@given(st.lists(FLOATS, max_size=30))
def test_scaling_keeps_the_order_and_is_bounded(values: list[float]) -> None:
    values_array = np.sort(np.array(values, np.float32))
    scaled = robust_scale(values_array)
    assert np.isfinite(scaled).all()
    assert (np.abs(scaled) <= 5).all()
    assert (np.diff(scaled) >= 0).all()


def test_scaling_forgets_unit_and_origin() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=200)
    assert robust_scale(3600 * values - 7) == pytest.approx(robust_scale(values))


def test_one_extreme_value_hardly_moves_the_others() -> None:
    values = np.random.default_rng(0).normal(size=200)
    with_outlier = robust_scale(np.append(values, 1e6))
    assert with_outlier[:-1] == pytest.approx(robust_scale(values), abs=0.05)
    assert with_outlier[-1] <= 5


def test_equal_values_scale_to_zero() -> None:
    assert robust_scale(np.full(4, 2.5)).tolist() == [0, 0, 0, 0]
    assert robust_scale(np.array([0, 0, 0, 0, 1.0]))[-1] > 0


def test_each_item_is_taken_by_one_rule() -> None:
    items = np.array([4, 7, 4, 9, 5, 7, 1])
    rows, counts = admissible(items, seen=np.array([7, 9, 100]), blocked=np.array([9]))
    assert items[rows].tolist() == [4, 5, 1]
    assert counts == {"blocked": 1, "seen": 2, "duplicate": 1}


def test_caps_close_a_group_when_it_is_full_but_never_the_unknown() -> None:
    groups = {"creator": np.array([3, 3, 3, 0, 0])}
    caps, still_open = Caps(groups, {"creator": 2}), np.ones(5, bool)
    closed = []
    for row in (0, 1, 3, 4):
        still_open[row] = False
        closed.append(caps.choose(row, still_open))
    assert closed == [0, 1, 0, 0]


def test_a_cap_on_an_unknown_feature_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'creator'"):
        Caps({"creator": np.array([1])}, {"creators": 1})


def test_candidates_refuse_values_that_are_not_finite() -> None:
    values = np.array([1.0, np.nan], np.float32)
    with pytest.raises(ValueError, match="values of item 8"):
        Candidates(np.array([7, 8]), values, np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="vectors of item 7"):
        Candidates(np.array([7]), np.ones(1), np.array([[np.inf, 0]]), np.zeros(1))


def test_candidates_refuse_columns_of_other_lengths() -> None:
    with pytest.raises(ValueError, match="ages_days holds 1 candidates, items holds 2"):
        Candidates(np.array([7, 8]), np.ones(2), np.zeros((2, 3)), np.zeros(1))
