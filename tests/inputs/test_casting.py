"""A column of any type, read row by row: every bit of an integer, every form of a time."""

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inputs.casting import as_float, as_integer, as_seconds, plain

INT64 = st.integers(-(2**63) + 1, 2**63 - 1)


def _no_integer(column):
    return np.logical_or.reduce(list(as_integer(column)[1].values()))


@given(st.lists(INT64, min_size=1))
def test_integers_keep_all_their_bits(numbers):
    for column in (pa.array(numbers), pa.array([str(n) for n in numbers])):
        values, _ = as_integer(column)
        assert not _no_integer(column).any()
        assert values.tolist() == numbers


def test_one_float_among_integers_harms_no_other_row():
    values, _ = as_integer(pa.array([str(2**60 + 1), "5.0", "1e3", "+7"]))
    assert values.tolist() == [2**60 + 1, 5, 1_000, 7]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array(["2.5"]), "must be an integer"),
        (pa.array(["nan"]), "must be an integer"),
        (pa.array([None], pa.int64()), "must be an integer"),
        (pa.array([2**63], pa.uint64()), "must fit in 64 bits"),
        (pa.array([str(2**63)]), "must fit in 64 bits"),
        (pa.array(["1" * 20]), "must fit in 64 bits"),
        (pa.array([2.0**70]), "must fit in 64 bits"),
        (pa.array([f"{2**60}.0"]), "must be written without a decimal point from 2^53 on, where floats lose digits"),
        (pa.array([2.0**53]), "must be written without a decimal point from 2^53 on, where floats lose digits"),
    ],
)
def test_what_is_no_integer_is_told_why(column, reason):
    wrong = as_integer(column)[1]
    assert [why for why, rows in wrong.items() if rows[0]] == [reason]


def test_the_largest_integers_are_integers():
    for column in (pa.array([2**63 - 1], pa.uint64()), pa.array([2**63 - 1]), pa.array([str(2**63 - 1)])):
        assert as_integer(column)[0].tolist() == [2**63 - 1]
        assert not _no_integer(column).any()


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), st.sampled_from(["s", "ms", "us", "ns"]))
def test_a_moment_is_the_same_in_every_form(moment, unit):
    seconds = int((moment.replace(microsecond=0) - datetime(1970, 1, 1)).total_seconds())
    utc = moment.replace(tzinfo=timezone.utc)
    forms = [
        pa.array([moment], pa.timestamp(unit)) if unit in ("us", "ns") else pa.array([moment.replace(microsecond=0)]),
        pa.array([utc], pa.timestamp("us", tz="UTC")),
        pa.array([moment.isoformat()]),
        pa.array([moment.isoformat(" ") + "Z"]),
        pa.array([str(seconds)]),
        pa.array([seconds]),
        pa.array([float(seconds) + 0.25]),
    ]
    for column in forms:
        values, known = as_seconds(plain(column))
        assert known.tolist() == [True], column
        assert values.tolist() == [seconds], column


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01 01:00", 3_600),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01T00:00:00.5-0130", 5_400),
        ("1969-12-31T23:59:59Z", -1),
        ("1970-13-01", None),
        ("1970-02-30", None),
        ("1970-01-01T00:00+25:00", None),
        ("noon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_dates_as_people_write_them(text, seconds):
    values, known = as_seconds(pa.array([text, "7"]))
    assert known.tolist() == [seconds is not None, True]
    assert values[1] == 7
    if seconds is not None:
        assert values[0] == seconds


def test_units_round_down_and_keep_their_digits():
    assert as_seconds(pa.array([1_577_836_800_999]), 1_000)[0].tolist() == [1_577_836_800]
    assert as_seconds(pa.array([-1]), 1_000)[0].tolist() == [-1]
    assert as_seconds(pa.array(["1500.5"]), 1_000)[0].tolist() == [1]


def test_text_that_is_no_number_is_told_from_one_that_is_not_finite():
    values, no_number = as_float(pa.array(["1.5", "-inf", "NaN", "great", "", None, "+2"]))
    assert no_number.tolist() == [False, False, False, True, False, False, False]
    assert np.array_equal(values, [1.5, -np.inf, np.nan, np.nan, np.nan, np.nan, 2.0], equal_nan=True)
