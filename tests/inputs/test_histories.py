"""A history is what was known strictly before a moment."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs.histories import Histories
from inputs.interactions import Interactions

rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=80)


def _interactions(events) -> Interactions:
    users, items, times = (
        np.array(column, np.int64) for column in zip(*sorted(events, key=lambda e: e[2]), strict=True)
    )
    return Interactions(users, items, times)


@settings(deadline=None, max_examples=80)
@given(rows, st.lists(st.tuples(st.integers(0, 7), st.integers(-5, 40)), min_size=1, max_size=20), st.integers(1, 6))
def test_equals_a_plain_loop(events, asked, length):
    interactions = _interactions(events)
    users, times = (np.array(column, np.int64) for column in zip(*asked, strict=True))
    histories = Histories(interactions)
    got, everything = histories.before(users, times, length), histories.before(users, times, None)
    for row, (user, time) in enumerate(asked):
        known = [
            item
            for u, item, t in zip(interactions.users, interactions.items, interactions.times, strict=True)
            if u == user and t < time
        ]
        assert everything.row(row).tolist() == known
        assert got.row(row).tolist() == known[-length:]


def test_saved_and_loaded_is_the_same(tmp_path):
    interactions = _interactions([(1, 2, 3), (1, 4, 5), (2, 6, 1)])
    Histories(interactions).save(tmp_path / "h.npz")
    loaded = Histories.load(tmp_path / "h.npz")
    assert loaded.before(np.array([1, 2]), np.array([9, 9]), None).values.tolist() == [2, 4, 6]
