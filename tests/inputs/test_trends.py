"""Trends count what was known before the day, and nothing of the day itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs.interactions import Interactions
from inputs.trends import WINDOWS_DAYS, Trends

DAY = 86_400
events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12 * DAY)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(events, st.lists(st.tuples(st.integers(0, 6), st.integers(0, 15 * DAY)), min_size=1, max_size=20))
def test_equals_a_plain_count(liked, asked):
    liked = sorted(liked, key=lambda event: event[1])
    items, times = (np.array(column, np.int64) for column in zip(*liked, strict=True))
    trends = Trends(Interactions(np.ones_like(items), items, times))
    got = trends.inputs(*(np.array(column, np.int64) for column in zip(*asked, strict=True)))
    assert list(got) == Trends.names()
    for row, (item, time) in enumerate(asked):
        midnight = time // DAY * DAY
        before = [t for i, t in liked if i == item and t < midnight]
        assert got["item_positives"][row] == pytest.approx(np.log1p(len(before)))
        for days in WINDOWS_DAYS:
            recent = sum(t >= midnight - days * DAY for t in before)
            assert got[f"item_positives_{days}d"][row] == pytest.approx(np.log1p(recent))
