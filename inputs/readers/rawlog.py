"""What a reader hands over: typed events in any order, and what is known of users and items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError
from inputs.cleaning import Cleaner, as_text, clean_ids, clean_numbers, clean_times, clip_infinite, integer_ids
from inputs.schema import ITEM, LIST, TIME, USER, Feature, Label

SECOND, MILLISECOND, MICROSECOND = 1, 1_000, 1_000_000
NUMBERS = ("number", "logged")  # kinds of context that are numbers
LIKED_FROM = 4.0  # a rating of so much on the usual five-star scale counts as a like


@dataclass(frozen=True)
class RawLog:
    """events: `user_id`, `item_id`, `timestamp`, perhaps `list_id`, labels and context, in the order of the file."""

    source: str
    events: pa.Table
    users: pa.Table
    items: pa.Table
    labels: tuple[Label, ...]
    context_features: tuple[Feature, ...] = ()
    user_features: tuple[Feature, ...] = ()
    item_features: tuple[Feature, ...] = ()


@dataclass(frozen=True)
class EventColumns:
    """Names, in the file, of the columns an event is made of."""

    user: str
    item: str
    time: str
    labels: Mapping[str, str]  # column -> kind of label
    context: Mapping[str, str]  # column -> kind of feature
    list: str | None = None
    unit_per_second: int = SECOND


def typed_events(
    blocks: Iterable[pa.Table], columns: EventColumns, cleaner: Cleaner, label_may_be_unknown: bool = False
) -> pa.Table:
    """Checks and types a file's events, block by block.

    Raises:
      UserError: a bad row under the policy "error", or no row that is good.
    """
    typed: list[pa.Table] = []
    integer: dict[str, bool] = {}
    for block in blocks:
        if not integer:
            named = {USER: columns.user, ITEM: columns.item}
            integer = {name: integer_ids(block.column(column)) for name, column in named.items()}
        typed.append(_typed_block(block, columns, integer, cleaner, label_may_be_unknown))
        cleaner.rows_seen += block.num_rows
    numbers = [*columns.labels, *(name for name, kind in columns.context.items() if kind in NUMBERS)]
    events = clip_infinite(pa.concat_tables(typed), numbers, cleaner) if typed else None
    if events is None or not events.num_rows:
        raise UserError(f"{cleaner.file}: no usable row in it.", "Choose a log that has some.")
    return events


def _typed_block(
    block: pa.Table, columns: EventColumns, integer: Mapping[str, bool], cleaner: Cleaner, unknown_allowed: bool
) -> pa.Table:
    users, keep = clean_ids(block.column(columns.user), USER, integer[USER], cleaner)
    items, keep_items = clean_ids(block.column(columns.item), ITEM, integer[ITEM], cleaner)
    times, keep_times = clean_times(block.column(columns.time), columns.unit_per_second, cleaner)
    keep = keep & keep_items & keep_times
    arrays: dict[str, pa.Array] = {USER: users, ITEM: items, TIME: times}
    if columns.list is not None:
        arrays[LIST], good = clean_ids(block.column(columns.list), LIST, False, cleaner)
        keep &= good
    for name, kind in columns.labels.items():
        arrays[name], good = clean_numbers(block.column(name), name, cleaner, unknown_allowed, kind == "binary")
        keep &= good
    for name, kind in columns.context.items():
        if kind in NUMBERS:
            arrays[name], good = clean_numbers(block.column(name), name, cleaner, unknown_allowed=True)
            keep &= good
        else:
            arrays[name] = as_text(block.column(name), name, cleaner)
    return pa.table(arrays).filter(pa.array(keep))


def with_likes(events: pa.Table) -> pa.Table:
    """Adds the binary label `like`: a `rating` of 4 or more."""
    liked = pc.greater_equal(events.column("rating"), pa.scalar(LIKED_FROM, pa.float32()))
    return events.append_column("like", pc.cast(liked, pa.float32()))


RATING_LABELS = (Label(name="rating", kind="number"), Label(name="like", kind="binary"))


def entities(ids: pa.ChunkedArray, key: str, described: pa.Table | None) -> pa.Table:
    """One row per id: those described, in their order, then those that only the events name (features null).

    `described` has a column `key` of the same type as `ids`.
    """
    seen = pc.unique(ids)
    if described is None:
        return pa.table({key: seen.take(pc.sort_indices(seen))})
    missing = seen.filter(pc.invert(pc.is_in(seen, value_set=described.column(key).combine_chunks())))
    missing = missing.take(pc.sort_indices(missing))
    rest = pa.table({key: missing})
    for field in described.schema:
        if field.name != key:
            rest = rest.append_column(field.name, pa.nulls(len(missing), field.type))
    return pa.concat_tables([described, rest.select(described.column_names)])


def described(table: pa.Table, key: str, column: str, like: pa.DataType, cleaner: Cleaner) -> pa.Table:
    """A file of users or items with its id column typed as the events' ids are; a repeated id keeps its first row."""
    return first_of_each(identified(table, key, column, like, cleaner), key, cleaner)


def identified(table: pa.Table, key: str, column: str, like: pa.DataType, cleaner: Cleaner) -> pa.Table:
    """Rows of users or items that have an id, in a column `key` typed as the events' ids are."""
    ids, keep = clean_ids(table.column(column), key, pa.types.is_integer(like), cleaner)
    return table.drop_columns([column]).append_column(key, pa.chunked_array([ids])).filter(pa.array(keep))


def first_of_each(table: pa.Table, key: str, cleaner: Cleaner) -> pa.Table:
    """The first row of each id; the others are counted."""
    codes = pc.dictionary_encode(table.column(key)).combine_chunks().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    cleaner.count(f"{key}: described more than once", table.num_rows - len(first))
    return table.take(np.sort(first))
