"""Stochastic rounding: right on average, one of the two neighbours, and a function of whose number it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.precision import rounded
from foundation.tf import tf

DTYPES = {"bfloat16": tf.bfloat16, "float16": tf.float16}


def _rounded(values, dtype, key=1, updates=0, variable=0, ids=None):
    ids = np.arange(len(values)) if ids is None else ids
    stored = rounded(tf.constant(values, tf.float32), DTYPES[dtype], key, tf.constant(ids, tf.int64), updates, variable)
    return tf.cast(stored, tf.float64).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.floats(-60000, 60000, width=32), min_size=1, max_size=9),
    key=st.integers(0, 2**64 - 1),
    updates=st.integers(0, 2**40),
)
def test_it_is_one_of_the_two_neighbours(dtype, values, key, updates):
    exact = np.array([values], np.float64)
    nearest = tf.cast(tf.cast(exact, tf.float32), DTYPES[dtype])
    stored = _rounded(exact, dtype, key, updates)
    relative, least = {"bfloat16": (2.0**-7, 2.0**-133), "float16": (2.0**-10, 2.0**-24)}[dtype]
    assert np.all(np.abs(stored - exact) < np.maximum(np.abs(exact) * relative, least))
    kept = tf.cast(nearest, tf.float64).numpy() == exact  # what the format can hold stays what it is
    assert np.array_equal(stored[kept], exact[kept])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.3, -1.0001, 1e-3, 3e-8, -(2.0**-15) * 1.01])
def test_it_is_right_on_average(dtype, value):
    value = float(np.float32(value))
    stored = _rounded(np.full((4000, 16), value), dtype)
    step = np.ptp(stored)
    assert len(np.unique(stored)) == 2
    assert abs(stored.mean() - value) < 5 * step / np.sqrt(stored.size) / 2 + step * 2.0**-16


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_so(dtype):
    stored = _rounded(np.array([[np.inf, -np.inf, np.nan, 0.0, -0.0]]), dtype)
    assert np.array_equal(stored, [[np.inf, -np.inf, np.nan, 0.0, -0.0]], equal_nan=True)
    assert np.signbit(stored[0, 4])


def test_a_float16_never_becomes_infinite():
    assert np.array_equal(_rounded(np.array([[65519.0, -1e30]]), "float16"), [[65504.0, -65504.0]])


def test_the_draw_depends_on_table_id_column_update_and_variable():
    values = np.full((50, 40), 0.3)
    one = _rounded(values, "bfloat16")
    assert np.array_equal(one, _rounded(values, "bfloat16"))
    for changed in ({"key": 2}, {"updates": 1}, {"variable": 1}):
        assert not np.array_equal(one, _rounded(values, "bfloat16", **changed))
    assert len(np.unique(one, axis=0)) == 50
    assert len(np.unique(one, axis=1).T) == 40
    # of a row alone as among others
    assert np.array_equal(one[[7]], _rounded(values[:1], "bfloat16", ids=[7]))


def test_steps_smaller_than_the_formats_step_add_up():
    """Rounded to nearest, 1 + 0.001 is 1 in bfloat16 for ever."""
    row = np.ones((200, 8))
    for update in range(500):
        row = _rounded(row + 0.001, "bfloat16", updates=update)
    assert row.mean() == pytest.approx(1.5, abs=0.01)
