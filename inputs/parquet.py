"""Parquet files as a log of a `Stream`: a block is a row group, and a column is Arrow's own memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foundation.errors import UserError, first_line
from inputs.features import Inputs
from inputs.ragged import Ragged
from inputs.stream import RAGGED, Columns, Kind, RowOrder, bad_row, log_files, need_column, need_finite

_WANTED: dict[Kind, str] = {
    "id": "an integer",
    "ids": "a list of integers",
    "dense": "a number",
    "weights": "a list of floats",
}


@dataclass(frozen=True)
class _RowGroup:
    """Row group `index` of a file. first_row: its first row's place in the file."""

    file: Path
    metadata: pq.FileMetaData
    index: int
    first_row: int
    rows: int


class ParquetLog:
    """Row groups of Parquet files. Write them with some 50,000 to 100,000 rows: a block is held in memory whole.

    columns: the columns read, and their kinds. sizes: [row groups] int64 rows.
    """

    def __init__(
        self, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], columns: Columns | None = None
    ) -> None:
        """path: a file, a folder of `*.parquet` files, or a list of files. columns: None reads every column, as the
        kind that the first file's schema shows (a label of integers is an "id" then: name the kinds to have it
        "dense").

        Raises:
          UserError: a file is missing, empty or not whole Parquet; a column is missing or has a type of another kind;
            there is no row.
        """
        groups: list[_RowGroup] = []
        for file in log_files(path, "*.parquet"):
            with _reading(file), pq.ParquetFile(file) as parquet:
                metadata, schema = parquet.metadata, parquet.schema_arrow
            columns = _inferred(file, schema) if columns is None else columns
            for name, kind in columns.items():
                need_column(file, name, schema.names)
                _need_type(file, name, kind, schema.field(name).type)
            first = 0
            for index in range(metadata.num_row_groups):
                groups.append(_RowGroup(file, metadata, index, first, metadata.row_group(index).num_rows))
                first += groups[-1].rows
        self.columns: Columns = dict(columns or {})
        self._groups = [group for group in groups if group.rows]
        self.sizes = np.array([group.rows for group in self._groups], np.int64)
        if not self._groups:
            raise UserError(f"{path}: no row in it.", "Get or write it again.")

    def read(self, block: int, order: RowOrder = None) -> Inputs:
        """A row group's columns by name; without an order they are views of Arrow's memory wherever the type allows.

        Raises:
          UserError: a value is null, not finite, or beyond 64 bits; the file is damaged.
        """
        group = self._groups[block]
        # a file object each: one is not safe to share between threads, and the metadata is at hand
        with _reading(group.file), pq.ParquetFile(group.file, metadata=group.metadata) as parquet:
            table = parquet.read_row_group(group.index, columns=list(self.columns), use_threads=False)
        rows = None if order is None else pa.array(order)
        return {name: _column(group, name, kind, table.column(name), rows) for name, kind in self.columns.items()}


def _column(
    group: _RowGroup, name: str, kind: Kind, chunks: pa.ChunkedArray, rows: pa.Array | None
) -> np.ndarray | Ragged:
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    if column.null_count:
        raise bad_row(group.file, group.first_row + _first_null(column), name, "null", _WANTED[kind])
    values, splits = _flat(column) if kind in RAGGED else (column, None)

    def row_of(value: int) -> int:
        within = value if splits is None else int(np.searchsorted(splits, value, side="right")) - 1
        return group.first_row + within

    if values.null_count:
        raise bad_row(group.file, row_of(_first_null(values)), name, "a list with a null", _WANTED[kind])
    if kind in ("id", "ids") and pa.types.is_uint64(values.type):
        large = pc.greater(values, pa.scalar(2**63 - 1, pa.uint64())).to_numpy(zero_copy_only=False)
        if large.any():
            at = int(np.argmax(large))
            raise bad_row(group.file, row_of(at), name, values[at], "an integer of 63 bits")
    wanted = pa.int64() if kind in ("id", "ids") else pa.float32()
    if values.type != wanted:
        values = pc.cast(pc.cast(values, pa.int8()) if pa.types.is_boolean(values.type) else values, wanted, safe=False)
    numbers = values.to_numpy()
    if kind in ("dense", "weights"):
        need_finite(group.file, group.first_row, name, numbers if splits is None else Ragged(numbers, splits))
    if splits is None:
        return numbers if rows is None else pc.take(values, rows).to_numpy()
    if rows is None:
        return Ragged(numbers, splits)
    lists = pc.take(pa.LargeListArray.from_arrays(splits, values), rows)
    return Ragged(lists.values.to_numpy(), lists.offsets.to_numpy())


def _flat(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The values of a list column without nulls, not copied, and row_splits [rows + 1] int64 from 0 on."""
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten(), np.arange(len(column) + 1, dtype=np.int64) * column.type.list_size
    splits = column.offsets.to_numpy().astype(np.int64)
    return column.values.slice(splits[0], splits[-1] - splits[0]), splits - splits[0]


def _first_null(column: pa.Array) -> int:
    return int(np.argmax(pc.is_null(column).to_numpy(zero_copy_only=False)))


def _kind_of(found: pa.DataType) -> Kind | None:
    if pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
        if pa.types.is_integer(found.value_type):
            return "ids"
        return "weights" if pa.types.is_floating(found.value_type) else None
    if pa.types.is_integer(found):
        return "id"
    return "dense" if pa.types.is_floating(found) or pa.types.is_boolean(found) else None


def _inferred(file: Path, schema: pa.Schema) -> Columns:
    kinds: dict[str, Kind] = {}
    for field in schema:
        kind = _kind_of(field.type)
        if kind is None:
            raise UserError(
                f"{file}: {field.name} has the type {field.type}: integers, numbers or lists of them are wanted.",
                "Name the columns to read and their kinds, or map this one to integers first.",
            )
        kinds[field.name] = kind
    return kinds


def _need_type(file: Path, name: str, kind: Kind, found: pa.DataType) -> None:
    if kind not in _WANTED:
        raise ValueError(f"column '{name}': the kind {kind!r} is not one of {', '.join(_WANTED)}")
    has = _kind_of(found)
    if has != kind and not (kind == "dense" and has == "id"):
        raise UserError(
            f"{file}: {name} has the type {found}: as '{kind}', {_WANTED[kind]} in each row is wanted.",
            "Write the column with another type, or name another kind.",
        )


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:  # Arrow raises either for a damaged page
        raise UserError(
            f"{file}: this file is not whole Parquet ({first_line(error)}).", "Get or write it again."
        ) from error
