"""Where vectors to index come from: ids and vectors by ranges of rows, whatever the files are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from foundation.errors import UserError, first_line
from foundation.files import json_digest

IDS, VECTORS, ZARR = "ids.npy", "vectors.npy", "zarr.json"
BLOCK = 1 << 14  # rows read at once
_BUFFER = 1 << 20  # bytes of a Parquet column read at once

_WANTED = (
    "Wanted: Parquet with columns id (int64) and vector (a list of float32 of one length), a folder with ids.npy and "
    "vectors.npy, or a zarr array [N, D] with ids.npy beside or in it."
)


class Source(Protocol):
    """N ids and N vectors of D numbers, in a fixed order."""

    path: Path
    size: int
    dim: int

    def ids(self, start: int, stop: int) -> np.ndarray:
        """[stop - start] int64."""

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The vectors of those rows in turn, at most `BLOCK` at once: [rows, D] float32."""

    def place(self, row: int) -> str:
        """Where a row is, for a message."""

    def digest(self) -> str:
        """Changes when what the source is made of changes: its files' names, sizes and times."""


Items = Iterator[tuple[np.ndarray, np.ndarray]]  # in blocks: ids [n] int64, vectors [n, D] float32


def items_of(source: Source) -> Items:
    """The items of a source."""
    first = 0
    for vectors in source.blocks(0, source.size):
        yield source.ids(first, first + len(vectors)), vectors
        first += len(vectors)


def open_source(path: str | Path) -> Source:
    """The source at a path: a Parquet file or a folder of them, ids.npy + vectors.npy, or a zarr array.

    Raises:
      UserError: there is none, its columns or shapes are not those wanted, or it is empty.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.", _WANTED)
    source: Source
    if path.is_dir() and (path / VECTORS).exists():
        source = _Npy(path)
    elif path.is_dir() and ((path / ZARR).exists() or (path / ".zarray").exists()):
        source = _Zarr(path)
    else:
        source = _Parquet(path)
    if not source.size:
        raise UserError(f"{path}: there is no vector in it.", "An index wants at least one.")
    return source


class _Npy:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = _ids_of(path / IDS)
        self._vectors = _opened(path / VECTORS)
        _see_shapes(path, self._ids, self._vectors.shape, self._vectors.dtype)
        self.size, self.dim = self._vectors.shape

    def ids(self, start: int, stop: int) -> np.ndarray:
        return np.array(self._ids[start:stop], dtype=np.int64)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        # opened anew for each block: pages of the file stay mapped, and count as this process's, while a map lives
        for first in range(start, stop, BLOCK):
            yield np.array(_opened(self.path / VECTORS)[first : min(first + BLOCK, stop)], dtype=np.float32)

    def place(self, row: int) -> str:
        return f"row {row} of {self.path / VECTORS}"

    def digest(self) -> str:
        return _digest([self.path / IDS, self.path / VECTORS])


class _Zarr:
    def __init__(self, path: Path) -> None:
        import tensorstore

        self.path = path
        self._ids_path = path / IDS if (path / IDS).exists() else path.parent / IDS
        self._ids = _ids_of(self._ids_path)
        spec = {
            "driver": "zarr3" if (path / ZARR).exists() else "zarr",
            "kvstore": {"driver": "file", "path": str(path)},
        }
        try:
            self._store: Any = tensorstore.open(spec, open=True, read=True).result()
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: tensorstore cannot open it ({first_line(error)}).", _WANTED) from error
        _see_shapes(path, self._ids, tuple(self._store.shape), self._store.dtype.numpy_dtype)
        self.size, self.dim = self._store.shape

    def ids(self, start: int, stop: int) -> np.ndarray:
        return np.array(self._ids[start:stop], dtype=np.int64)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            try:
                block = self._store[first:last].read().result()
            except (ValueError, OSError) as error:
                raise UserError(
                    f"{self.path}: rows {first} to {last} cannot be read ({first_line(error)}).",
                    "Write the array again.",
                ) from error
            yield np.ascontiguousarray(block, dtype=np.float32)

    def place(self, row: int) -> str:
        return f"row {row} of {self.path}"

    def digest(self) -> str:
        return _digest([self._ids_path, *sorted(file for file in self.path.rglob("*") if file.is_file())])


class _Parquet:
    """Row groups of Parquet files in the order of their names."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self._files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self._files:
            raise UserError(f"{path}: no vectors here: neither {VECTORS}, {ZARR} nor *.parquet.", _WANTED)
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._starts = [0]
        dims: dict[int, Path] = {}
        for number, file in enumerate(self._files):
            try:
                opened = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{file}: cannot be read as Parquet ({first_line(error)}).", _WANTED) from error
            with opened:
                width = _width(file, opened.schema_arrow)
                for group in range(opened.metadata.num_row_groups):
                    rows = opened.metadata.row_group(group).num_rows
                    if rows:
                        self._groups.append((number, group))
                        self._starts.append(self._starts[-1] + rows)
            if width:
                dims.setdefault(width, file)
        self.size = self._starts[-1]
        if len(dims) > 1:
            (dim, first), (other, second) = list(dims.items())[:2]
            raise UserError(
                f"{second}: its vectors have {other} numbers; those of {first} have {dim}.", "Index them apart."
            )
        self.dim = next(iter(dims), 0) or self._first_width()

    def ids(self, start: int, stop: int) -> np.ndarray:
        parts = []
        for group, column in self._columns("id", start, stop):
            if column.null_count:
                raise UserError(f"{self._name(group)}: an id is missing (null).", "Every vector wants an id.")
            parts.append(column.to_numpy().astype(np.int64))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for group, column in self._columns("vector", start, stop):
            numbers = column.flatten()
            if column.null_count or numbers.null_count:
                raise UserError(f"{self._name(group)}: a vector, or a number of one, is missing (null).", _WANTED)
            lengths = column.value_lengths().to_numpy()
            if (lengths != self.dim).any():
                wrong = int(lengths[lengths != self.dim][0])
                raise UserError(
                    f"{self._name(group)}: a vector has {wrong} numbers; those before have {self.dim}.",
                    "Vectors of one index have one dimension.",
                )
            yield numbers.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, self.dim)

    def place(self, row: int) -> str:
        group = bisect_right(self._starts, row) - 1
        return f"row {row - self._starts[group]} of {self._name(group)}"

    def digest(self) -> str:
        return _digest(self._files)

    def _columns(self, name: str, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """(row group, its column's values) for rows start to stop, at most `BLOCK` of them at once."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        group = bisect_right(self._starts, start) - 1
        while start < stop:
            number, within = self._groups[group]
            at, end = self._starts[group], min(stop, self._starts[group + 1])
            try:
                with pq.ParquetFile(self._files[number], buffer_size=_BUFFER) as file:
                    for batch in file.iter_batches(BLOCK, [within], [name], use_threads=False):
                        first, last = max(start - at, 0), min(end - at, batch.num_rows)
                        if first < last:
                            yield group, batch.column(0).slice(first, last - first)
                        at += batch.num_rows
                        if at >= end:
                            break
            except (pa.ArrowException, OSError) as error:
                raise UserError(
                    f"{self._name(group)}: cannot be read ({first_line(error)}).", "Write it again."
                ) from error
            start, group = end, group + 1

    def _name(self, group: int) -> str:
        number, within = self._groups[group]
        return f"row group {within} of {self._files[number]}"

    def _first_width(self) -> int:
        """The dimension where the type does not tell it: that of the first vector."""
        if not self.size:
            return 0
        return len(next(self._columns("vector", 0, 1))[1][0] or ())


def _width(file: Path, schema: Any) -> int:
    """How long the vectors of a Parquet file are; 0 where their type does not tell."""
    import pyarrow as pa

    for name in ("id", "vector"):
        if name not in schema.names:
            raise UserError(f"{file}: no column '{name}'; there are {', '.join(schema.names) or 'none'}.", _WANTED)
    ids, vectors = schema.field("id").type, schema.field("vector").type
    if not pa.types.is_integer(ids):
        raise UserError(f"{file}: column id is {ids}, not an integer.", _WANTED)
    fixed = pa.types.is_fixed_size_list(vectors)
    if not (fixed or pa.types.is_list(vectors)) or not pa.types.is_floating(vectors.value_type):
        raise UserError(f"{file}: column vector is {vectors}, not a list of float32.", _WANTED)
    return vectors.list_size if fixed else 0


def _opened(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: this file is missing.", _WANTED) from error
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as npy ({first_line(error)}).", _WANTED) from error


def _ids_of(path: Path) -> np.ndarray:
    ids = _opened(path)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UserError(f"{path}: ids of shape {list(ids.shape)} and type {ids.dtype}, not [N] int64.", _WANTED)
    return ids


def _see_shapes(path: Path, ids: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 2 or (shape[0] and not shape[1]) or dtype.kind != "f":
        raise UserError(f"{path}: vectors of shape {list(shape)} and type {dtype}, not [N, D] float32.", _WANTED)
    if len(ids) != shape[0]:
        raise UserError(f"{path}: {len(ids)} ids for {shape[0]} vectors.", "Every vector wants one id.")


def _digest(files: list[Path]) -> str:
    return json_digest([[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files])
