"""The one form every log takes: users, items and time-ordered events in Parquet, with a manifest."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foundation.errors import UserError, damaged, first_line, nearest
from foundation.files import atomic_directory, disk_errors, file_entry, read_json
from inputs.schema import ITEM, LIST, TIME, USER, Feature, Schema

MANIFEST = "dataset.json"
FORMAT = 1
ROWS_PER_FILE = 4_000_000
ROWS_PER_GROUP = 100_000


@dataclass(frozen=True)
class RowGroup:
    """Events [start, stop) of the dataset: row group `index` of an events file. Lists never straddle two groups."""

    file: Path
    index: int
    start: int
    stop: int


class DatasetWriter:
    """Writes a dataset; it appears at `path` when the `with` block ends without an error, whole, or not at all.

    Users and items are written before events. Events come in time order (a list stands where its first row does, whole
    within one call); columns are those of `schema.event_columns`.
    """

    def __init__(self, path: str | Path, schema: Schema, source: str) -> None:
        self.path, self.schema, self.source = Path(path), schema, source
        self.counts: dict[str, int] = {}
        self._directory: AbstractContextManager[Path] = atomic_directory(self.path)
        self._parquet: pq.ParquetWriter | None = None
        self._rows_in_file = self._events = self._parts = 0
        self._first_time: int | None = None
        self._last_list_time = self._last_time = -(2**63)
        self._files: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, int] = {}

    def __enter__(self) -> DatasetWriter:
        self._root = self._directory.__enter__()
        (self._root / "events").mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            if self._parquet is not None:
                self._close_part()
            if kind is None:
                self._commit()
        except BaseException as failure:
            self._directory.__exit__(type(failure), failure, failure.__traceback__)
            raise
        return self._directory.__exit__(kind, error, traceback)

    def write_users(self, table: pa.Table) -> None:
        """One row per user: `user_id` and the schema's user features."""
        self._write_entities("users", table, USER, self.schema.user_features)

    def write_items(self, table: pa.Table) -> None:
        """One row per item of the catalogue: `item_id` and the schema's item features."""
        self._write_entities("items", table, ITEM, self.schema.item_features)

    def write_events(self, table: pa.Table) -> None:
        """Appends events: [rows] of `schema.event_columns`, timestamps int64 seconds.

        Raises:
          ValueError: a column is missing, rows are out of time order, or a list is torn apart.
        """
        table = _columns_of(table, self.schema.event_columns, "events").combine_chunks()
        if table.num_rows == 0:
            return
        times = table.column(TIME).to_numpy()
        starts = _list_starts(table.column(LIST).to_numpy())
        first_times = times[starts]
        if first_times[0] < self._last_list_time or np.any(np.diff(first_times) < 0):
            raise ValueError("events are out of time order")
        self._first_time = int(times[0]) if self._first_time is None else self._first_time
        self._last_list_time, self._last_time = int(first_times[-1]), max(self._last_time, int(times.max()))
        for start, stop in _cut(starts, table.num_rows, ROWS_PER_GROUP):
            self._writer(table.schema).write_table(table.slice(start, stop - start), row_group_size=stop - start)
            self._rows_in_file += stop - start
            self._events += stop - start

    def _writer(self, schema: pa.Schema) -> pq.ParquetWriter:
        if self._parquet is not None and self._rows_in_file >= ROWS_PER_FILE:
            self._close_part()
        if self._parquet is None:
            self._part = self._root / "events" / f"part-{self._parts:05d}.parquet"
            self._parquet = pq.ParquetWriter(self._part, schema, compression="zstd")
            self._parts += 1
        return self._parquet

    def _close_part(self) -> None:
        assert self._parquet is not None
        self._parquet.close()
        self._parquet, self._rows_in_file = None, 0
        self._enter_file(self._part)

    def _write_entities(self, name: str, table: pa.Table, key: str, features: Sequence[Feature]) -> None:
        table = _columns_of(table, [key, *(feature.name for feature in features)], name)
        if pc.count_distinct(table.column(key)).as_py() != table.num_rows:
            raise ValueError(f"{name}: {key} is not unique")
        path = self._root / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd")
        self._rows[name] = table.num_rows
        self._enter_file(path)

    def _enter_file(self, path: Path) -> None:
        self._files[str(path.relative_to(self._root))] = file_entry(path)

    def _commit(self) -> None:
        manifest = {
            "format": FORMAT,
            "source": self.source,
            "schema": self.schema.model_dump(mode="json"),
            "rows": {**self._rows, "events": self._events},
            "time_range": [self._first_time, self._last_time],
            "counts": self.counts,
            "files": self._files,
        }
        (self._root / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


class Dataset:
    """A dataset folder, opened for reading. Events stay on disk; users and items are read when first asked for."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self._manifest = path, manifest
        self.schema = Schema.model_validate(manifest["schema"])
        self.source: str = manifest["source"]
        self.counts: dict[str, int] = manifest["counts"]
        self.num_events: int = manifest["rows"]["events"]
        self.time_range: tuple[int, int] = tuple(manifest["time_range"])

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Opens a dataset folder.

        Raises:
          UserError: it is missing, is not a dataset, or a file of it is missing or truncated.
        """
        path = Path(path)
        if not (path / MANIFEST).exists():
            found = "no such folder" if not path.exists() else f"no {MANIFEST} in it"
            raise UserError(f"{path}: not a dataset ({found}).", "Make one with `headrace data simulate --out FOLDER`.")
        manifest = read_json(path / MANIFEST, "the dataset's manifest")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"{path / MANIFEST}: not a dataset of format {FORMAT}.", "Make the dataset again.")
        with damaged(path / MANIFEST, "Make the dataset again."):
            dataset = cls(path, manifest)
            sizes = {path / name: entry["bytes"] for name, entry in manifest["files"].items()}
        for file, wanted in sizes.items():
            size = file.stat().st_size if file.exists() else None
            if size != wanted:
                what = "is missing" if size is None else f"is {size:,} bytes long, {wanted:,} were written"
                raise UserError(f"{file}: this part of the dataset {what}.", "Make the dataset again.")
        if dataset.num_events == 0:
            raise UserError(f"{path}: this dataset has no events.", "Choose a log that has some.")
        return dataset

    @cached_property
    def fingerprint(self) -> str:
        """Changes when any file's content does."""
        text = json.dumps([self._manifest["schema"], self._manifest["files"]], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @cached_property
    def users(self) -> pa.Table:
        return _read(self.path / "users.parquet")

    @cached_property
    def items(self) -> pa.Table:
        return _read(self.path / "items.parquet")

    @cached_property
    def row_groups(self) -> list[RowGroup]:
        """The row groups of the events, in order."""
        groups: list[RowGroup] = []
        start = 0
        for file in sorted((self.path / "events").glob("part-*.parquet")):
            metadata = _open(file).metadata
            for index in range(metadata.num_row_groups):
                stop = start + metadata.row_group(index).num_rows
                groups.append(RowGroup(file, index, start, stop))
                start = stop
        return groups

    def events(self, columns: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
        """Events [start, stop) in the log's order.

        Raises:
          UserError: the log has no such column (the nearest is named).
        """
        stop = self.num_events if stop is None else stop
        pieces = [
            self.read_group(group, columns).slice(max(start - group.start, 0), stop - max(start, group.start))
            for group in self.row_groups
            if group.start < stop and group.stop > start
        ]
        return pa.concat_tables(pieces) if pieces else self.read_group(self.row_groups[0], columns).slice(0, 0)

    def read_group(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """The events of one row group."""
        for column in columns:
            if column not in self.schema.event_columns:
                raise UserError(f"{self.path}: no column '{column}'; {nearest(column, self.schema.event_columns)}")
        with disk_errors(group.file):
            try:
                return _open(group.file).read_row_group(group.index, columns=list(columns))
            except pa.ArrowException as error:
                raise UserError(f"{group.file}: damaged ({first_line(error)}).", "Make the dataset again.") from error

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Every event, row group by row group."""
        for group in self.row_groups:
            yield self.read_group(group, columns)


def _list_starts(lists: np.ndarray) -> np.ndarray:
    """[lists] the row each list begins at, after checking that no list is torn apart."""
    starts = np.flatnonzero(np.r_[True, lists[1:] != lists[:-1]])
    if len(np.unique(lists[starts])) != len(starts):
        raise ValueError("rows of a list do not stand together")
    return starts


def _cut(starts: np.ndarray, rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Pieces of about `size` rows that begin where a list does."""
    cuts = [0]
    while rows - cuts[-1] > size:
        following = starts[np.searchsorted(starts, cuts[-1] + size)] if starts[-1] >= cuts[-1] + size else rows
        cuts.append(int(following))
        if following == rows:
            break
    if cuts[-1] != rows:
        cuts.append(rows)
    return itertools.pairwise(cuts)


def _columns_of(table: pa.Table, columns: Sequence[str], what: str) -> pa.Table:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise ValueError(f"{what}: no column {', '.join(missing)}")
    return table.select(list(columns))


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}).", "Make the dataset again.") from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}).", "Make the dataset again.") from error
