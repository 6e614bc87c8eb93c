"""Users and items by position, with their features encoded once for all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inputs.ragged import Ragged, splits_of
from inputs.vocabulary import Hashing, IdMap, Vocabulary

InputKind = Literal["category", "categories", "number"]
UNKNOWN_TIME = np.iinfo(np.int64).min
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class FeatureSpec:
    """One model input. vocabulary_size and table: of a categorical input, the rows it needs and the embedding table it
    looks up (inputs may share one); 0 and "" for a number."""

    name: str
    kind: InputKind
    vocabulary_size: int = 0
    table: str = ""


class Entities:
    """Raw ids in order. Position = place in the order + `first` (users start at 1: 0 is the unknown user)."""

    def __init__(self, table: pa.Table, key: str, first: int) -> None:
        self.table, self.key, self.first = table, key, first
        self.ids: pa.Array = table.column(key).combine_chunks()

    def __len__(self) -> int:
        """Positions there are, the unknown one included."""
        return len(self.ids) + self.first

    def position_of(self, raw_ids: pa.Array | pa.ChunkedArray | list) -> np.ndarray:
        """[n] int64 positions of raw ids; `first - 1` for an id that is not here."""
        values = raw_ids if isinstance(raw_ids, pa.Array | pa.ChunkedArray) else self._typed(raw_ids)
        found = pc.fill_null(pc.index_in(values, value_set=self.ids), -1)
        found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
        return found.to_numpy(zero_copy_only=False).astype(np.int64) + self.first

    def _typed(self, raw_ids: list) -> pa.Array:
        """Ids from a command line or a request: text that reads as the log's ids do, or null."""
        if not pa.types.is_integer(self.ids.type):
            return pa.array([str(raw) for raw in raw_ids], pa.string())
        texts = (str(raw).strip() for raw in raw_ids)
        numbers = (int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else None for text in texts)
        return pa.array([n if n is not None and abs(n) < 2**63 else None for n in numbers], pa.int64())

    def raw_ids(self, positions: np.ndarray) -> list:
        """The ids as the log writes them."""
        return self.ids.take(pa.array(np.asarray(positions) - self.first)).to_pylist()


def encode_categories(
    column: pa.ChunkedArray, trained: np.ndarray, buckets: int | None
) -> tuple[np.ndarray | Ragged, int]:
    """A category column (or a list of them per row) as embedding ids, and the rows a table needs for them.

    trained: [rows] bool, the entities seen in training: only their values enter the vocabulary.
    Returns (ids [rows] int64, or Ragged of them; vocabulary size).
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_list(column.type):
        ids = id_map(pc.unique(column.filter(pa.array(trained))), buckets)
        return ids.ids(column), ids.size
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(column)
    ids = id_map(pc.unique(flat.filter(pa.array(np.repeat(trained, lengths)))), buckets)
    return Ragged(ids.ids(flat), splits_of(lengths)), ids.size


def id_map(values: pa.Array, buckets: int | None) -> IdMap:
    """A vocabulary of `values`, or a hashing into `buckets`."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return Hashing(buckets) if buckets else Vocabulary(pc.drop_null(values))


def encode_number(column: pa.ChunkedArray, trained: np.ndarray) -> np.ndarray:
    """[rows] float32, standardised on the entities seen in training; what is unknown is 0, the mean."""
    values = pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy()
    seen = values[trained & np.isfinite(values)]
    mean, deviation = (seen.mean(), seen.std()) if len(seen) else (0.0, 1.0)
    return np.nan_to_num((values - mean) / (deviation or 1.0), posinf=0.0, neginf=0.0).astype(np.float32)


def encode_time(column: pa.ChunkedArray) -> np.ndarray:
    """[rows] int64 seconds; UNKNOWN_TIME where the log says nothing."""
    return pc.fill_null(pc.cast(column, pa.int64()), UNKNOWN_TIME).to_numpy()


def log_age(published: np.ndarray, now: np.ndarray) -> np.ndarray:
    """[n] float32: log1p of the days from `published` to `now` (seconds); 0 if unknown or not yet."""
    days = np.where(published == UNKNOWN_TIME, 0.0, (now - np.maximum(published, 0)) / SECONDS_PER_DAY)
    return np.log1p(np.maximum(days, 0.0)).astype(np.float32)
