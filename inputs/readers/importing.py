"""From a log as it comes to a dataset: read, check, sort by time, group into lists, write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from foundation.errors import UserError
from inputs.cleaning import Cleaner, drop_duplicates
from inputs.config import InputsConfig
from inputs.dataset import Dataset, DatasetWriter
from inputs.readers.columns import read_columns
from inputs.readers.movielens import read_movielens
from inputs.readers.rawlog import RawLog
from inputs.readers.recbole import read_recbole
from inputs.schema import LIST, TIME, USER, Schema
from inputs.sittings import list_order, sittings

READERS: dict[str, Callable[[InputsConfig, Callable[..., Cleaner]], RawLog]] = {
    "movielens": read_movielens,
    "recbole": read_recbole,
    "columns": read_columns,
}


def import_log(config: InputsConfig, path: str | Path) -> Dataset:
    """Reads the log that `config` names and writes it as a dataset at `path`.

    Raises:
      UserError: the log is missing, is not what its format says, or has bad rows that the policy does not allow.
    """
    counts: dict[str, int] = {}

    def cleaner_of(file: Path, header_rows: int = 0) -> Cleaner:
        return Cleaner(config.on_bad_row, str(file), header_rows, counts)

    log = READERS[config.format](config, cleaner_of)
    schema = _schema(log, str(config.path))
    events = _ordered(log.events, cleaner_of(Path(str(config.path))))
    with DatasetWriter(path, schema, log.source) as writer:
        writer.counts = counts
        writer.write_users(log.users)
        writer.write_items(log.items)
        writer.write_events(events)
    return Dataset.open(path)


def _schema(log: RawLog, path: str) -> Schema:
    try:
        return Schema(
            user_features=log.user_features,
            item_features=log.item_features,
            context_features=log.context_features,
            labels=log.labels,
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {reason}.", "Rename the column in the log, or leave it out.") from error


def _ordered(events: pa.Table, cleaner: Cleaner) -> pa.Table:
    """Events by time, lists whole. Rows out of time order are put in order, and counted."""
    times = events.column(TIME).to_numpy()
    cleaner.count("rows put into time order", int((np.diff(times) < 0).sum()))
    events = events.take(pa.array(np.argsort(times, kind="stable")))
    events = drop_duplicates(events, cleaner)
    times = events.column(TIME).to_numpy()
    if LIST in events.column_names:
        # A list is one user's: numbers that begin anew for each user name different ones.
        users = _codes(events.column(USER))
        lists, events = _codes(events.column(LIST)) * (users.max() + 1) + users, events.drop_columns([LIST])
    else:
        lists = sittings(_codes(events.column(USER)), times)
    order, numbers = list_order(lists, times)
    return events.take(pa.array(order)).append_column(LIST, pa.array(numbers))


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return pc.dictionary_encode(column).combine_chunks().indices.to_numpy().astype(np.int64)
