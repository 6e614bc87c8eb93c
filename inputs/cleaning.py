"""Raw text columns to typed events: what is wrong with a row is found, told and counted, never passed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError
from inputs.config import BadRowPolicy
from inputs.schema import ITEM, TIME, USER

_INTEGER = r"^\s*-?\d+\s*$"
_DECIMAL = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_NOT_FINITE = r"^\s*[-+]?(?i:nan|inf|infinity)\s*$"


@dataclass
class Cleaner:
    """Applies one bad-row policy to a log and counts what it did.

    file: named in errors. header_rows: lines before the first row, so that a message names the file's own line.
    """

    policy: BadRowPolicy
    file: str
    header_rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    rows_seen: int = 0

    def refuse(self, bad: np.ndarray, column: str, reason: str, shown: Callable[[int], object]) -> np.ndarray:
        """Handles the rows of a block where `bad` [rows] holds; returns the rows to keep [rows] bool.

        Raises:
          UserError: the policy is "error" and there is one.
        """
        if bad.any():
            first = int(np.argmax(bad))
            if self.policy == "error":
                raise UserError(
                    f"{self.file}: row {self.rows_seen + first + 1 + self.header_rows:,}: {column} is "
                    f"{shown(first)!r}: {reason}.",
                    "Mend the row, or leave bad rows out: --set inputs.on_bad_row=drop (they are counted).",
                )
            self.count(f"{column}: {reason}", int(bad.sum()))
        return ~bad

    def count(self, reason: str, rows: int) -> None:
        if rows:
            self.counts[reason] = self.counts.get(reason, 0) + rows


def integer_ids(column: pa.ChunkedArray) -> bool:
    """Whether a column's ids are integers: it has an integer type, or most of its text reads as one."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        matches = pc.match_substring_regex(column, r"^\s*[-+]?\d+(\.\d*)?\s*$")
        return bool(2 * (pc.sum(matches).as_py() or 0) > len(column))
    return pa.types.is_integer(column.type) or pa.types.is_floating(column.type)


def clean_ids(column: pa.ChunkedArray, name: str, integer: bool, cleaner: Cleaner) -> tuple[pa.Array, np.ndarray]:
    """Ids as int64 or string, and the rows to keep [rows] bool."""
    column = pa.chunked_array(column).combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    shown = _shown(column)
    if not integer:
        text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
        empty = _bools(pc.equal(pc.utf8_length(text), 0))
        return text, cleaner.refuse(empty | _nulls(column), name, "an id must not be empty", shown)
    numbers, keep = _numbers(column, name, cleaner, "an id must be an integer")
    fractional = keep & (numbers != np.floor(numbers))
    keep &= cleaner.refuse(fractional, name, "an id must be an integer", shown)
    keep &= cleaner.refuse(keep & (numbers < 0), name, "an id must not be negative", shown)
    keep &= cleaner.refuse(keep & (numbers >= 2.0**63), name, "an id must fit in 64 bits", shown)
    return pa.array(_to_int64(column, numbers, keep)), keep


def clean_times(column: pa.ChunkedArray, unit_per_second: int, cleaner: Cleaner) -> tuple[pa.Array, np.ndarray]:
    """Timestamps as int64 seconds, and the rows to keep [rows] bool. Arrow timestamps and text dates are understood."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    shown = _shown(column)
    if pa.types.is_string(column.type) and not _bools(pc.match_substring_regex(column, _DECIMAL)).any():
        column = _parse_dates(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        missing = _nulls(column)
        micros = pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64())
        seconds = pc.fill_null(micros, 0).to_numpy(zero_copy_only=False) // 1_000_000
        return pa.array(seconds), cleaner.refuse(missing, TIME, "a time is wanted", shown)
    numbers, keep = _numbers(column, TIME, cleaner, "a time is wanted")
    keep &= cleaner.refuse(keep & (numbers < 0), TIME, "a time must not be negative", shown)
    keep &= cleaner.refuse(keep & (numbers >= 2.0**63), TIME, "a time must fit in 64 bits", shown)
    return pa.array((_to_int64(column, numbers, keep) // unit_per_second).astype(np.int64)), keep


def clean_numbers(
    column: pa.ChunkedArray, name: str, cleaner: Cleaner, unknown_allowed: bool, binary: bool = False
) -> tuple[pa.Array, np.ndarray]:
    """A label or context column as float32 (null where the log says nothing), and the rows to keep [rows] bool."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.int8())
    unknown = _nulls(column)
    if pa.types.is_string(column.type):
        unknown |= _bools(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0))
    shown = _shown(column)
    values = _as_float(column)
    text_wrong = np.zeros(len(values), bool)
    if pa.types.is_string(column.type):
        named = _bools(pc.match_substring_regex(column, _NOT_FINITE))
        text_wrong = np.isnan(values) & ~unknown & ~named
    keep = cleaner.refuse(text_wrong, name, "a number is wanted", shown)
    keep &= cleaner.refuse(np.isnan(values) & ~unknown & keep, name, "a label must not be NaN", shown)
    infinite = np.isinf(values) & keep
    if infinite.any() and cleaner.policy == "clip" and np.isfinite(values).any():
        finite = values[np.isfinite(values)]
        values = np.clip(values, finite.min(), finite.max())
        cleaner.count(f"{name}: infinite, clipped", int(infinite.sum()))
    else:
        keep &= cleaner.refuse(infinite, name, "a label must be finite", shown)
    if not unknown_allowed:
        keep &= cleaner.refuse(unknown & keep, name, "a label must not be empty", shown)
    if binary:
        neither = keep & ~unknown & (values != 0) & (values != 1)
        keep &= cleaner.refuse(neither, name, "a binary label is 0 or 1", shown)
    return pa.array(values.astype(np.float32), mask=unknown), keep


def lenient_numbers(column: pa.ChunkedArray, name: str, cleaner: Cleaner) -> pa.Array:
    """Numbers of a feature; what is no number is unknown, and counted."""
    lenient = Cleaner("drop", cleaner.file)
    values, keep = clean_numbers(column, name, lenient, unknown_allowed=True)
    cleaner.count(f"{name}: not a number, taken as unknown", int((~keep).sum()))
    return pc.if_else(pa.array(keep), values, None)


def drop_duplicates(events: pa.Table, cleaner: Cleaner) -> pa.Table:
    """Of rows alike in user, item and time, the first stays. `events` is sorted by time, then as the log had it."""
    order = np.arange(events.num_rows)
    codes = [pc.dictionary_encode(events.column(name)).combine_chunks() for name in (USER, ITEM)]
    keys = [code.indices.to_numpy() for code in codes] + [events.column(TIME).to_numpy()]
    sorted_rows = np.lexsort((order, *keys))
    same = np.ones(max(events.num_rows - 1, 0), bool)
    for key in keys:
        same &= key[sorted_rows[1:]] == key[sorted_rows[:-1]]
    repeated = np.zeros(events.num_rows, bool)
    repeated[sorted_rows[1:][same]] = True
    if not repeated.any():
        return events
    if cleaner.policy == "error":
        row = events.slice(int(np.argmax(repeated)), 1).to_pylist()[0]
        raise UserError(
            f"{cleaner.file}: {int(repeated.sum()):,} duplicate rows, such as user {row[USER]}, item {row[ITEM]}, "
            f"time {row[TIME]}.",
            "Remove them, or keep the first of each: --set inputs.on_bad_row=drop (they are counted).",
        )
    cleaner.count("duplicate rows", int(repeated.sum()))
    return events.filter(pa.array(~repeated))


def _numbers(column: pa.Array, name: str, cleaner: Cleaner, wanted: str) -> tuple[np.ndarray, np.ndarray]:
    numbers = _as_float(column)
    return np.nan_to_num(numbers), cleaner.refuse(~np.isfinite(numbers), name, wanted, _shown(column))


def _as_float(column: pa.Array) -> np.ndarray:
    """[rows] float64; NaN where there is no number."""
    if pa.types.is_string(column.type):
        fits = pc.or_(pc.match_substring_regex(column, _DECIMAL), pc.match_substring_regex(column, _NOT_FINITE))
        column = pc.if_else(fits, pc.utf8_trim_whitespace(column), None)
        column = pc.cast(pc.replace_substring(column, "+", ""), pa.float64())
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)


def _to_int64(column: pa.Array, numbers: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Integers beyond 2^53 pass through unharmed: they are read as integers, not through `numbers`."""
    if pa.types.is_integer(column.type):
        return pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy(zero_copy_only=False)
    if pa.types.is_string(column.type) and _bools(pc.match_substring_regex(column, _INTEGER))[keep].all():
        digits = pc.if_else(pa.array(keep), pc.utf8_trim_whitespace(column), "0")
        return pc.cast(digits, pa.int64()).to_numpy(zero_copy_only=False)
    return np.where(keep, numbers, 0).astype(np.int64)


def _parse_dates(column: pa.Array) -> pa.Array:
    for pattern in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        parsed = pc.strptime(column, format=pattern, unit="s", error_is_null=True)
        if parsed.null_count < len(column):
            return parsed
    return column


def _shown(column: pa.Array) -> Callable[[int], object]:
    return lambda row: column[row].as_py()


def _nulls(column: pa.Array) -> np.ndarray:
    return pc.is_null(column).to_numpy(zero_copy_only=False)


def _bools(column: pa.Array) -> np.ndarray:
    return pc.fill_null(column, False).to_numpy(zero_copy_only=False)
