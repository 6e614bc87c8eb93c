"""A search spends its budget and no more, repeats itself, and finds the best of what it tried."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.tuning import draw_settings, tune

CHOICES = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.lists(st.integers(), min_size=1, max_size=4, unique=True), max_size=4
)


@given(CHOICES, st.integers(1, 12), st.integers(0, 5))
def test_drawn_settings_are_different_begin_with_the_default_and_fill_the_budget(choices, budget, seed):
    drawn = draw_settings(choices, budget, seed)
    total = int(np.prod([len(values) for values in choices.values()]))
    assert len(drawn) == min(budget, total)
    assert drawn[0] == {name: values[0] for name, values in choices.items()}
    assert len({tuple(settings.items()) for settings in drawn}) == len(drawn)
    assert all(settings[name] in choices[name] for settings in drawn for name in choices)
    assert drawn == draw_settings(choices, budget, seed)


def test_trials_come_best_first_and_ties_in_the_order_drawn():
    choices = {"a": (0, 1, 2, 3)}
    trials = tune(choices, 4, lambda settings: -abs(settings["a"] - 2))
    assert [trial.settings["a"] for trial in trials] == [2, 1, 3, 0]
    assert trials[0].value == 0
    assert [trial.settings["a"] for trial in tune(choices, 4, lambda _: 0.5)] == [0, 1, 2, 3]


def test_a_model_that_cannot_be_judged_is_no_winner():
    with pytest.raises(ValueError, match="judged nan"):
        tune({"a": (0, 1)}, 2, lambda settings: float("nan") if settings["a"] else 1.0)
