"""Raw text columns to typed events: what is wrong with a row is found, told and counted, never passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError, first_line
from inputs.casting import as_float, as_integer, as_seconds, is_empty, plain
from inputs.config import BadRowPolicy
from inputs.schema import ITEM, TIME, USER

FINITE = "a label must be a finite float32"


@dataclass
class Cleaner:
    """Applies one bad-row policy to a log and counts what it did.

    file: named in errors. header_rows: lines before the first row, so that a message names the file's own line.
    rows_seen: of that file, before the block at hand.
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

    @contextmanager
    def typing(self, column: str, found: pa.DataType, wanted: str) -> Iterator[None]:
        """Names the column whose type cannot be read as what is wanted, as a UserError."""
        try:
            yield
        except pa.ArrowException as error:
            raise UserError(
                f"{self.file}: {column} has the type {found}: {wanted} are wanted ({first_line(error)}).",
                "Write the column with another type, or map another one in inputs.columns.",
            ) from error

    def enter(self, file: str) -> None:
        """Goes on with the next file of the same log."""
        self.file, self.rows_seen = file, 0

    def count(self, reason: str, rows: int) -> None:
        if rows:
            self.counts[reason] = self.counts.get(reason, 0) + rows


def integer_ids(column: pa.ChunkedArray) -> bool:
    """Whether a column's ids are integers: it has a type of numbers, or most of its text reads as integers."""
    column = plain(column)
    if not pa.types.is_string(column.type):
        return pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    _, wrong = as_integer(column)
    return bool(2 * np.count_nonzero(wrong["must be an integer"]) < len(column))


def clean_ids(column: pa.ChunkedArray, name: str, integer: bool, cleaner: Cleaner) -> tuple[pa.Array, np.ndarray]:
    """Ids as int64 or string, and the rows to keep [rows] bool."""
    column = plain(column)
    shown = _shown(column)
    with cleaner.typing(name, column.type, "integers" if integer else "text or integers"):
        if not integer:
            text = pc.cast(column, pa.string())
            return text, cleaner.refuse(is_empty(text), name, "an id must not be empty", shown)
        numbers, wrong = as_integer(column)
    keep = np.ones(len(numbers), bool)
    for reason, rows in {**wrong, "must not be negative": numbers < 0}.items():
        keep &= cleaner.refuse(rows & keep, name, f"an id {reason}", shown)
    return pa.array(np.where(keep, numbers, 0)), keep


def clean_times(column: pa.ChunkedArray, unit_per_second: int, cleaner: Cleaner) -> tuple[pa.Array, np.ndarray]:
    """Timestamps as int64 seconds, and the rows to keep [rows] bool."""
    column = plain(column)
    shown = _shown(column)
    seconds, known = _seconds(column, TIME, unit_per_second, cleaner)
    keep = cleaner.refuse(~known, TIME, "a time is wanted", shown)
    keep &= cleaner.refuse(keep & (seconds < 0), TIME, "a time must not be before 1970", shown)
    return pa.array(seconds), keep


def clean_numbers(
    column: pa.ChunkedArray, name: str, cleaner: Cleaner, unknown_allowed: bool, binary: bool = False
) -> tuple[pa.Array, np.ndarray]:
    """A label or context column as float32 (null where the log says nothing), and the rows to keep [rows] bool.

    Under the policy "clip" what is infinite (or is as a float32) is kept as it is, for `clip_infinite`.
    """
    column = plain(column)
    shown = _shown(column)
    unknown = is_empty(column)
    with cleaner.typing(name, column.type, "numbers"):
        wide, no_number = as_float(column)
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    keep = cleaner.refuse(no_number, name, "a number is wanted", shown)
    keep &= cleaner.refuse(np.isnan(values) & ~unknown & keep, name, "a label must not be NaN", shown)
    if cleaner.policy != "clip" or binary:
        keep &= cleaner.refuse(np.isinf(values) & keep, name, FINITE, shown)
    if not unknown_allowed:
        keep &= cleaner.refuse(unknown & keep, name, "a label must not be empty", shown)
    if binary:
        neither = keep & ~unknown & (values != 0) & (values != 1)
        keep &= cleaner.refuse(neither, name, "a binary label is 0 or 1", shown)
    return pa.array(values, mask=unknown), keep


def clip_infinite(events: pa.Table, names: Sequence[str], cleaner: Cleaner) -> pa.Table:
    """Brings infinite numbers to the smallest and largest finite ones of the whole log, and counts them; where no
    number is finite their rows go. What a block alone holds plays no part."""
    keep = np.ones(events.num_rows, bool)
    for name in names:
        values = pc.fill_null(events.column(name), np.float32(0)).to_numpy()
        infinite = np.isinf(values)
        if not infinite.any():
            continue
        finite = pc.min_max(events.column(name).filter(pa.array(~infinite))).as_py()
        if finite["min"] is None:
            keep &= ~infinite
            cleaner.count(f"{name}: {FINITE}", int(infinite.sum()))
            continue
        cleaner.count(f"{name}: infinite, clipped", int(infinite.sum()))
        clipped = pa.array(np.clip(values, finite["min"], finite["max"]), mask=is_empty(events.column(name)))
        events = events.set_column(events.column_names.index(name), name, clipped)
    return events.filter(pa.array(keep))


def lenient_numbers(column: pa.ChunkedArray, name: str, cleaner: Cleaner) -> pa.Array:
    """float32 numbers of a feature; what is no finite number is unknown, and counted."""
    lenient = Cleaner("drop", cleaner.file)
    values, keep = clean_numbers(column, name, lenient, unknown_allowed=True)
    cleaner.count(f"{name}: not a number, taken as unknown", int((~keep).sum()))
    return pc.if_else(pa.array(keep), values, None)


def lenient_times(column: pa.ChunkedArray, name: str, unit_per_second: int, cleaner: Cleaner) -> pa.Array:
    """int64 seconds of a feature; what is no time is unknown, and counted."""
    column = plain(column)
    seconds, known = _seconds(column, name, unit_per_second, cleaner)
    cleaner.count(f"{name}: not a time, taken as unknown", int((~known & ~is_empty(column)).sum()))
    return pa.array(seconds, mask=~known)


def as_text(column: pa.ChunkedArray, name: str, cleaner: Cleaner) -> pa.Array:
    """A category as text; an empty one is unknown.

    Raises:
      UserError: its type has no text form (a list, a struct).
    """
    column = plain(column)
    with cleaner.typing(name, column.type, "single values"):
        text = pc.cast(column, pa.string())
    return pc.if_else(pa.array(is_empty(text)), None, text)


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


def _seconds(column: pa.Array, name: str, unit_per_second: int, cleaner: Cleaner) -> tuple[np.ndarray, np.ndarray]:
    with cleaner.typing(name, column.type, "times (numbers, dates or Arrow timestamps)"):
        return as_seconds(column, unit_per_second)


def _shown(column: pa.Array) -> Callable[[int], object]:
    return lambda row: column[row].as_py()
