"""A saved table by id, as arrays alone: no layer is made, whatever ranks, plan and precision it was saved under."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embeddings.checkpoints.arrays import REMEDY, Reader, span
from embeddings.checkpoints.columns import Source, sources
from embeddings.checkpoints.manifest import Saved, SavedPart, SavedTable
from embeddings.checkpoints.variables import rows_in_bytes_at_once
from embeddings.sharding.held import bucket_sizes, buckets_of_hashes, id_hashes
from embeddings.sharding.sharded import BUCKETS
from embeddings.tables.dynamic import NO_ID
from foundation.errors import UserError

_NO_VARIABLES = ("ids", "bucket_starts", "counters", "counted")
OF_IDS = ("frequencies", "last_seen")  # what a dynamic table knows of each id beside its variables

Columns = tuple[int, int]


@dataclass(frozen=True)
class SavedVariable:
    """dtype: its name. wide: whether it has a number for each column, or one a row."""

    dtype: str
    wide: bool

    @property
    def item_bytes(self) -> int:
        return {"bfloat16": 2}.get(self.dtype) or np.dtype(self.dtype).itemsize


class SavedRows(ABC):
    """A table of a checkpoint. variables: by name: "rows", slot variables, and `OF_IDS` of a dynamic table.

    Raises:
      UserError: a file is missing or damaged, or parts of the table are.
    """

    def __init__(self, root: Path, table: SavedTable, parts: Sequence[SavedPart]) -> None:
        self.root, self.table, self.parts = root, table, list(parts)
        if not self.parts:
            raise self._not_all()
        flat = 2 if table.vocabulary_size is not None else 1  # dimensions of one number a row
        self.variables = {
            name: SavedVariable(array.dtype, len(array.shape) > flat)
            for name, array in self.parts[0].arrays.items()
            if name not in _NO_VARIABLES
        }
        self._found: dict[tuple[str, Columns, int], list[Source]] = {}

    @property
    def slots(self) -> list[str]:
        """The names of slot variables."""
        return [name for name in self.variables if name != "rows" and name not in OF_IDS]

    @property
    def updates(self) -> int:
        """How many the table has had."""
        return max(part.updates for part in self.parts)

    @property
    def rows_at_once(self) -> int:
        """How many to read at a time, that memory stays bounded."""
        width = max(v.item_bytes * (self.table.dim if v.wide else 1) for v in self.variables.values())
        return rows_in_bytes_at_once(width)

    @property
    @abstractmethod
    def count(self) -> int:
        """How many ids have a row of their own."""

    @abstractmethod
    def ids(self) -> Iterator[np.ndarray]:
        """All of them, [n] int64, `rows_at_once` at most, in the order in which their rows are quickly read."""

    @abstractmethod
    def order(self, ids: np.ndarray) -> np.ndarray:
        """[n] int64: the permutation that brings ids [n] into the order of `ids()`."""

    @abstractmethod
    def holds(self, ids: np.ndarray) -> np.ndarray:
        """[n] bool: which of ids [n] have a row of their own."""

    @abstractmethod
    def read(self, name: str, ids: np.ndarray, columns: Columns | None = None) -> np.ndarray:
        """[n, width] or [n]: a variable's values of ids [n] that it holds, quickest in the order of `ids`."""

    def _sources(self, name: str, columns: Columns | None, group: int, parts: Sequence[SavedPart]) -> list[Source]:
        """Where columns of a variable are in some of the parts, which are always the same of one group."""
        of = columns or (0, self.table.dim)
        key = (name, of, group)
        if key not in self._found:
            self._found[key] = sources(self.root, parts, name, of, self.variables[name].wide)
        return self._found[key]

    def _shape(self, name: str, count: int, columns: Columns | None) -> tuple[int, ...]:
        first, last = columns or (0, self.table.dim)
        return (count, last - first) if self.variables[name].wide else (count,)

    def _not_all(self) -> UserError:
        return UserError(f"{self.root}: table '{self.table.name}' is not all there, or twice.", REMEDY)


class SavedStaticRows(SavedRows):
    """Ids are 0 to vocabulary_size - 1."""

    def __init__(self, root: Path, table: SavedTable, parts: Sequence[SavedPart]) -> None:
        super().__init__(root, table, [*(p for p in parts if not p.hot), *(p for p in parts if p.hot)])
        assert table.vocabulary_size is not None
        self._size = table.vocabulary_size
        self._by_bucket = [part for part in self.parts if not part.hot]
        self._listed = [part for part in self.parts if part.hot]  # what these say is true, whatever the others do
        self._ids_listed: dict[int, np.ndarray] = {}
        times = np.zeros((min(self._size, BUCKETS), table.dim), np.int64)
        for part in self._by_bucket:
            times[part.buckets[part.buckets < self._size], slice(*part.columns)] += 1
        if (times != 1).any():
            raise self._not_all()

    @property
    def count(self) -> int:
        return self._size

    def ids(self) -> Iterator[np.ndarray]:
        most, sizes = self.rows_at_once, bucket_sizes(self._size)
        group: list[np.ndarray] = []
        held = 0
        for bucket in range(min(self._size, BUCKETS)):
            for first in range(0, int(sizes[bucket]), most):
                stretch = bucket + BUCKETS * np.arange(first, min(first + most, int(sizes[bucket])))
                if held + len(stretch) > most:
                    yield np.concatenate(group)
                    group, held = [], 0
                group.append(stretch)
                held += len(stretch)
        yield np.concatenate(group)

    def order(self, ids: np.ndarray) -> np.ndarray:
        return np.lexsort((ids // BUCKETS, ids % BUCKETS))

    def holds(self, ids: np.ndarray) -> np.ndarray:
        return (ids >= 0) & (ids < self._size)

    def read(self, name: str, ids: np.ndarray, columns: Columns | None = None) -> np.ndarray:
        out = None
        buckets, deep = ids % BUCKETS, ids // BUCKETS
        for source in self._sources(name, columns, 0, self._by_bucket):
            place = np.full(BUCKETS, -1)
            place[source.part.buckets] = np.arange(len(source.part.buckets))
            here = np.flatnonzero(place[buckets] >= 0)
            if len(here):
                values = source.read_at(place[buckets[here]], deep[here])
                out = np.empty(self._shape(name, len(ids), columns), values.dtype) if out is None else out
                source.put(out, here, values)
        if out is None:
            source = self._sources(name, columns, 0, self._by_bucket)[0]
            out = np.empty(self._shape(name, 0, columns), source.read_at(ids, ids).dtype)
        for source in self._sources(name, columns, 1, self._listed):
            listed = self._list(source.part)
            if not len(listed):
                continue
            places = np.minimum(np.searchsorted(listed, ids), len(listed) - 1)
            here = np.flatnonzero(listed[places] == ids)
            if len(here):
                source.put(out, here, source.read_at(places[here]))
        return out

    def _list(self, part: SavedPart) -> np.ndarray:
        if id(part) not in self._ids_listed:
            self._ids_listed[id(part)] = Reader(self.root, part.arrays["ids"]).read(slice(None))
        return self._ids_listed[id(part)]


class SavedDynamicRows(SavedRows):
    """Any ids; all of them are in memory, some 30 bytes each. NO_ID stands for the row that ids without one share."""

    def __init__(self, root: Path, table: SavedTable, parts: Sequence[SavedPart]) -> None:
        super().__init__(root, table, parts)
        same: dict[tuple[bool, bytes], list[SavedPart]] = {}  # those that have columns of the same rows
        for part in self.parts:
            same.setdefault((part.hot, part.buckets.tobytes()), []).append(part)
        self._groups = list(same.values())
        held = np.zeros(BUCKETS, np.int64)
        for of_rows in self._groups:
            columns = np.zeros(table.dim, np.int64)
            for part in of_rows:
                columns[slice(*part.columns)] += 1
            held[of_rows[0].buckets] += not of_rows[0].hot
            if (columns != 1).any():
                raise self._not_all()
        if (held != 1).any():
            raise self._not_all()
        listed = [Reader(root, of_rows[0].arrays["ids"]).read(slice(1, None)) for of_rows in self._groups]
        found = np.concatenate(listed)
        hashes = id_hashes(found)
        order = np.argsort(hashes)
        self.in_order, self._hashes = found[order], hashes[order]
        self._group = np.repeat(np.arange(len(listed)), [len(ids) for ids in listed])[order].astype(np.int32)
        self._place = np.concatenate([np.arange(1, len(ids) + 1) for ids in listed])[order]

    @property
    def count(self) -> int:
        return len(self.in_order)

    def ids(self) -> Iterator[np.ndarray]:
        for start in range(0, self.count, self.rows_at_once):
            yield self.in_order[start : start + self.rows_at_once]

    def ids_of(self, buckets: np.ndarray) -> np.ndarray:
        """[n] int64: those of some buckets, in the order of their hash."""
        return self.in_order[np.isin(buckets_of_hashes(self._hashes), buckets)]

    def order(self, ids: np.ndarray) -> np.ndarray:
        return np.argsort(id_hashes(ids), kind="stable")

    def holds(self, ids: np.ndarray) -> np.ndarray:
        return self._at(ids)[1]

    def read(self, name: str, ids: np.ndarray, columns: Columns | None = None) -> np.ndarray:
        at, held = self._at(ids)
        if not self.count:
            group = place = np.zeros(len(ids), np.int64)
        else:
            group, place = self._group[at], self._place[at]
        shared = ids == NO_ID
        assert (held | shared).all()
        group, place = np.where(shared, 0, group), np.where(shared, 0, place)
        out = None
        for number, of_rows in enumerate(self._groups):
            here = np.flatnonzero(group == number)
            if not len(here) and number:
                continue
            for source in self._sources(name, columns, number, of_rows):
                values = source.read(span(place[here]))
                out = np.empty(self._shape(name, len(ids), columns), values.dtype) if out is None else out
                source.put(out, here, values)
        assert out is not None
        return out

    def _at(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(where in `in_order`, whether it is there)."""
        if not self.count:
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        at = np.minimum(np.searchsorted(self._hashes, id_hashes(ids)), self.count - 1)
        return at, self.in_order[at] == ids


def opened(saved: Saved, name: str) -> SavedRows:
    """A table of a checkpoint, to be read by id."""
    table = saved.tables[name]
    kind = SavedDynamicRows if table.vocabulary_size is None else SavedStaticRows
    return kind(saved.root, table, saved.parts_of(name))


def as_precision(values: np.ndarray, dtype: str) -> np.ndarray:
    """Floats at another precision, rounded to the nearest; what would be infinite in float16 is the largest."""
    wanted = precision_dtype(dtype)
    if values.dtype == wanted:
        return values
    if dtype == "float16":
        wide = values.astype(np.float32)
        values = np.where(np.isfinite(wide), np.clip(wide, -65504.0, 65504.0), wide)
    return values.astype(wanted)


def precision_dtype(name: str) -> np.dtype:
    """numpy's, of a name as tensorstore has it."""
    import tensorstore as ts

    return np.dtype(ts.dtype(name).numpy_dtype)
