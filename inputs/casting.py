"""Columns of any type as numbers, exact integers or seconds, row by row: where a row is none, a mask says so."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_INTEGER = r"^[-+]?\d+$"
_DECIMAL = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_NOT_FINITE = r"^[-+]?(?i:nan|inf|infinity)$"
_DATE = (
    r"^(?P<date>\d{4}-\d{2}-\d{2})(?:[T ](?P<time>\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?)?"
    r" ?(?P<zone>Z|UTC|(?:(?P<sign>[-+])(?P<hours>[01]\d|2[0-3]):?(?P<minutes>[0-5]\d)))?$"
)
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LARGEST = str(2**63 - 1)
EXACT_FLOAT = 2.0**53  # from here on, floats pass over integers


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array; large or dictionary-encoded text as text, without spaces around it."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = pc.cast(column, pa.string())
    return pc.utf8_trim_whitespace(column) if pa.types.is_string(column.type) else column


def is_empty(column: pa.Array) -> np.ndarray:
    """[rows] bool: null, or text without a character."""
    missing = pc.is_null(column).to_numpy(zero_copy_only=False)
    if pa.types.is_string(column.type):
        missing |= _bools(pc.equal(pc.utf8_length(column), 0))
    return missing


def as_float(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """([rows] float64, NaN where there is no number; [rows] bool, where text is no number at all, "nan" is one).

    Raises:
      pa.ArrowException: the column's type is not one of numbers.
    """
    if not pa.types.is_string(column.type):
        if pa.types.is_boolean(column.type):
            column = pc.cast(column, pa.int8())
        values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
        return values, np.zeros(len(values), bool)
    number = pc.or_(pc.match_substring_regex(column, _DECIMAL), pc.match_substring_regex(column, _NOT_FINITE))
    text = pc.if_else(number, pc.utf8_ltrim(column, "+"), None)
    values = pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return values, ~_bools(number) & ~is_empty(column)


def as_integer(column: pa.Array) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """([rows] int64, all 64 bits of them; by reason, the rows [rows] bool that are no integer).

    An integer written as a float ("5.0", 1e3) counts as one below 2^53: beyond, floats pass over integers.
    """
    values, _ = as_float(column)
    known = np.isfinite(values)
    fractional = known & (values != np.floor(values))
    if pa.types.is_integer(column.type):
        small = np.ones(len(values), bool)
        if pa.types.is_uint64(column.type):
            small = _bools(pc.less_equal(column, pa.scalar(2**63 - 1, pa.uint64()))) | ~known
        exact, whole = pc.cast(pc.fill_null(column, 0), pa.int64(), safe=False).to_numpy(zero_copy_only=False), known
    elif pa.types.is_string(column.type):
        whole = _bools(pc.match_substring_regex(column, _INTEGER))
        digits = pc.utf8_ltrim(pc.utf8_ltrim(column, "-+"), "0")
        length = pc.fill_null(pc.utf8_length(digits), 0).to_numpy(zero_copy_only=False)
        fits = (length < 19) | ((length == 19) & _bools(pc.less_equal(digits, _LARGEST)))
        small = np.where(whole, fits, np.abs(values) < 2.0**63)
        readable = pc.if_else(pa.array(whole & small), pc.utf8_ltrim(column, "+"), "0")
        exact = pc.cast(readable, pa.int64()).to_numpy(zero_copy_only=False)
    else:
        small, whole, exact = np.abs(values) < 2.0**63, np.zeros(len(values), bool), np.zeros(len(values), np.int64)
    rounded = known & ~whole & (np.abs(values) >= EXACT_FLOAT)
    from_float = np.where(np.abs(values) < EXACT_FLOAT, values, 0.0).astype(np.int64)  # not for NaN: 0 it is
    return np.where(whole, exact, from_float), {
        "must be an integer": ~known | fractional,
        "must fit in 64 bits": known & ~small,
        "must be written without a decimal point from 2^53 on, where floats lose digits": rounded & small,
    }


def as_seconds(column: pa.Array, unit_per_second: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """([rows] int64 seconds, rounded down; [rows] bool, where there is a time).

    Understood are Arrow timestamps and dates, numbers in a unit of which a second has `unit_per_second`, and ISO 8601
    dates with or without a time of day and a zone (without one: UTC).
    """
    if pa.types.is_timestamp(column.type):
        raw = pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy(zero_copy_only=False)
        return raw // _PER_SECOND[column.type.unit], ~is_empty(column)
    if pa.types.is_date(column.type):
        return as_seconds(pc.cast(column, pa.timestamp("s")))
    integers, wrong = as_integer(column)
    floats, _ = as_float(column)
    floats = np.where(np.abs(floats) < 2.0**63, floats, np.nan)  # false for NaN: it stays one
    exact = ~np.logical_or.reduce(list(wrong.values()))
    of_float = np.floor(np.nan_to_num(floats) / unit_per_second).astype(np.int64)
    seconds, known = np.where(exact, integers // unit_per_second, of_float), exact | np.isfinite(floats)
    if pa.types.is_string(column.type) and not known.all():
        dated, is_date = _dates(column)
        seconds, known = np.where(known, seconds, dated), known | is_date
    return seconds, known


def _dates(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """([rows] int64 seconds, [rows] bool) of ISO 8601 text."""
    parts = pc.extract_regex(column, _DATE)
    date, time, sign, hours, minutes = (
        pc.fill_null(pc.struct_field(parts, name), "") for name in ("date", "time", "sign", "hours", "minutes")
    )
    time = pc.if_else(pc.equal(time, ""), "00:00", time)
    time = pc.if_else(pc.equal(pc.utf8_length(time), 5), pc.binary_join_element_wise(time, "00", ":"), time)
    stamp = pc.binary_join_element_wise(date, time, "T")
    parsed = pc.strptime(stamp, format="%Y-%m-%dT%H:%M:%S", unit="s", error_is_null=True)
    known = _bools(pc.equal(pc.strftime(parsed, format="%Y-%m-%dT%H:%M:%S"), stamp))  # not for the 30th of February
    seconds = pc.fill_null(pc.cast(parsed, pa.int64()), 0).to_numpy(zero_copy_only=False)
    hours, minutes = (
        pc.cast(pc.if_else(pc.equal(part, ""), "0", part), pa.int64()).to_numpy(zero_copy_only=False)
        for part in (hours, minutes)
    )
    east = np.where(_bools(pc.equal(sign, "-")), -1, 1)
    return seconds - east * (hours * 3_600 + minutes * 60), known


def _bools(column: pa.Array) -> np.ndarray:
    return pc.fill_null(column, False).to_numpy(zero_copy_only=False)
