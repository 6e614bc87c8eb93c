"""Arrays on disk: zarr 3, written and read by tensorstore in pieces, each under a CRC-32C."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from embeddings.checkpoints.shards import checksum_for_shards, read_shard, write_shard
from embeddings.checkpoints.variables import AT_WORK
from embeddings.kernels.checksum import Checksum
from foundation.errors import UserError, first_line
from foundation.files import disk_errors, file_entry

BYTES_PER_FILE = 1 << 24
REMEDY = "Restore an earlier checkpoint, or train again in a new run directory."
_METADATA = "zarr.json"
_WRITERS = 4  # threads, which mostly wait for the disk
_NAMED_FILE = re.compile(r'local file "([^"]+)"')
_NO_SPACE = ("No space left", "Disk quota")

Region = tuple[slice, ...]


@dataclass(frozen=True)
class SavedArray:
    """path: its folder below the checkpoint's. files: by name below that, their bytes and, of the metadata, digest."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    files: dict[str, dict[str, Any]]

    @property
    def bytes(self) -> int:
        """Of its files."""
        return sum(entry["bytes"] for entry in self.files.values())

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> SavedArray:
        return cls(**{**document, "shape": tuple(document["shape"])})


class Writer:
    """A new array, written in pieces that are whole files, a few of them on their way at once. A context manager.
    together: how much, along each dimension, is read and checked as one."""

    def __init__(self, root: Path, path: str, shape: Sequence[int], dtype: str, together: Sequence[int]) -> None:
        self._folder, self._path, self._shape, self._dtype = root / path, path, tuple(shape), dtype
        inner = _chunk_shape(self._shape, together)
        self._file = _file_shape(self._shape, inner, ts.dtype(dtype).numpy_dtype.itemsize)
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {"chunk_shape": inner, "codecs": codecs, "index_codecs": codecs}
        metadata = {
            "shape": self._shape,
            "data_type": dtype,
            "fill_value": 0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self._file}},
            "chunk_key_encoding": {"name": "default"},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        }
        spec = {
            "driver": "zarr3",
            "kvstore": _kvstore(self._folder),
            "metadata": metadata,
            "store_data_equal_to_fill_value": True,  # a file that is not there is a lost one
        }
        self._chunk, self._checksum = inner, checksum_for_shards()
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._writing: list[Any] = []
        with _write_errors(self._folder):
            self._store = ts.open(spec, create=True, delete_existing=True).result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """When the block is left nothing is written any more."""
        self._pool.shutdown(cancel_futures=kind is not None)

    def pieces(self) -> Iterator[Region]:
        """What to write, piece by piece."""
        return _pieces(self._shape, self._file)

    def write(self, piece: Region, values: np.ndarray) -> None:
        """values: the caller's no more, but AT_WORK pieces later."""
        with _write_errors(self._folder):
            if self._checksum is None:
                self._writing.append(self._store[piece].write(values, can_reference_source_data_indefinitely=True))
            else:
                self._writing.append(self._pool.submit(self._write_file, piece, values, self._checksum))
            while len(self._writing) >= AT_WORK:
                self._writing.pop(0).result()

    def _write_file(self, piece: Region, values: np.ndarray, checksum: Checksum) -> None:
        """What the store would do, with fewer copies."""
        grid = [size // length for size, length in zip(self._file, self._chunk, strict=True)]
        write_shard(self._folder / _file_name(piece, self._file), values, self._chunk, grid, checksum)

    def close(self) -> SavedArray:
        """Waits until everything is on the disk."""
        with _write_errors(self._folder):
            for written in self._writing:
                written.result()
        files = {}
        for entry in sorted(self._folder.rglob("*")):
            if entry.is_file():
                name = entry.relative_to(self._folder).as_posix()
                files[name] = file_entry(entry) if name == _METADATA else {"bytes": entry.stat().st_size}
        return SavedArray(self._path, self._shape, self._dtype, files)


class Reader:
    """A saved array, of which only what is asked for is read.

    Raises:
      UserError: a file is missing, truncated, or not what was written; it is named.
    """

    def __init__(self, root: Path, array: SavedArray) -> None:
        self.array, self._folder = array, root / array.path
        for name, entry in array.files.items():
            _check_file(self._folder / name, entry)
        with _read_errors(self._folder):
            self._store = ts.open({"driver": "zarr3", "kvstore": _kvstore(self._folder)}, open=True).result()
        if self._store.shape != array.shape or self._store.dtype.name != array.dtype:
            raise UserError(f"{self._folder}: not the array that its manifest tells of.", REMEDY)
        layout = self._store.chunk_layout
        self._file = tuple(length or 1 for length in layout.write_chunk.shape or ())
        self._chunk = tuple(length or 1 for length in layout.read_chunk.shape or ())
        self._checksum = checksum_for_shards()

    def read(self, *index: Any) -> np.ndarray:
        """As numpy's array[index], each index that is an array being of its own dimension."""
        piece = self._whole_file(index)
        if piece is not None and self._checksum is not None:
            return self._read_file(piece, self._checksum)
        with _read_errors(self._folder):
            return self._store.oindex[index].read().result()

    def _whole_file(self, index: Sequence[Any]) -> Region | None:
        """What of the array is asked for, if that is all that a file has."""
        if len(index) != len(self._file) or not all(isinstance(axis, slice | np.ndarray) for axis in index):
            return None
        piece = []
        for axis, size, length in zip(index, self.array.shape, self._file, strict=True):
            stretch = axis if isinstance(axis, slice) else span(axis)
            if not isinstance(stretch, slice) or stretch.step not in (None, 1):
                return None
            start, stop, _ = stretch.indices(size)
            if start >= stop or start % length or stop != min(start + length, size):
                return None
            piece.append(slice(start, stop))
        return tuple(piece)

    def _read_file(self, piece: Region, checksum: Checksum) -> np.ndarray:
        """What the store would do, with fewer copies."""
        path = self._folder / _file_name(piece, self._file)
        shape = [axis.stop - axis.start for axis in piece]
        grid = [size // length for size, length in zip(self._file, self._chunk, strict=True)]
        try:
            return read_shard(path, shape, self._store.dtype.numpy_dtype, self._chunk, grid, checksum)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged ({first_line(error)}).", REMEDY) from error

    def read_at(self, *index: Any) -> np.ndarray:
        """As numpy's array[index], indices that are arrays being of one length, together."""
        with _read_errors(self._folder):
            return self._store.vindex[index].read().result()

    def check(self) -> None:
        """Reads all of it."""
        for _, piece in self.files():
            self.read(*piece)

    def files(self) -> Iterator[tuple[Path, Region]]:
        """(where it is, what of the array it has) of each file."""
        for piece in _pieces(self.array.shape, self._file):
            yield self._folder / _file_name(piece, self._file), piece


def damages(root: Path, array: SavedArray, advance: Callable[[int], None]) -> dict[Path, str]:
    """Reads all of a saved array; what is wrong, by file. advance: told how many bytes were read."""
    folder, found = root / array.path, {}
    for name, entry in array.files.items():
        try:
            _check_file(folder / name, entry)
        except UserError as error:
            found[folder / name] = error.message
    if folder / _METADATA in found:
        return found
    try:
        reader = Reader(root, SavedArray(array.path, array.shape, array.dtype, {}))
    except UserError as error:
        return {**found, folder / _METADATA: error.message}
    for path, piece in reader.files():
        if path not in found:
            try:
                advance(reader.read(*piece).nbytes)
            except UserError as error:
                found[path] = error.message
    return found


def _kvstore(folder: Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{folder.absolute()}/"}


def pieces_of_files(shape: Sequence[int], dtype: str, together: Sequence[int]) -> Iterator[Region]:
    """What each file has of an array that a `Writer` of these arguments writes."""
    inner = _chunk_shape(shape, together)
    return _pieces(tuple(shape), _file_shape(tuple(shape), inner, ts.dtype(dtype).numpy_dtype.itemsize))


def span(places: np.ndarray) -> slice | np.ndarray:
    """Numbers that follow each other as a slice, others as they are."""
    if len(places) and places[-1] - places[0] + 1 == len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def _chunk_shape(shape: Sequence[int], together: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(min(most, size), 1) for most, size in zip(together, shape, strict=True))


def _file_name(piece: Region, of_file: Sequence[int]) -> str:
    """As zarr 3 names it."""
    return "/".join(["c", *(str(axis.start // length) for axis, length in zip(piece, of_file, strict=True))])


def _file_shape(shape: tuple[int, ...], together: tuple[int, ...], element_bytes: int) -> tuple[int, ...]:
    """As many of what is read as one as a file may have, those along the last dimensions first."""
    left = max(BYTES_PER_FILE // (int(np.prod(together)) * element_bytes), 1)
    chosen = list(together)
    for axis in reversed(range(len(shape))):
        times = max(min(-(-shape[axis] // together[axis]), left), 1)
        chosen[axis] *= times
        left //= times
    return tuple(chosen)


def _pieces(shape: tuple[int, ...], of_file: tuple[int, ...]) -> Iterator[Region]:
    """What each file has of an array."""
    axes = [
        [slice(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(shape, of_file, strict=True)
    ]
    return itertools.product(*axes)


def _check_file(path: Path, entry: dict[str, Any]) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != entry["bytes"]:
        what = "missing" if found is None else f"{found:,} bytes long instead of {entry['bytes']:,}"
        raise UserError(f"{path}: this checkpoint file is {what}.", REMEDY)
    if "digest" in entry and file_entry(path)["digest"] != entry["digest"]:
        raise UserError(f"{path}: this checkpoint file is damaged: its digest is another.", REMEDY)


@contextlib.contextmanager
def _read_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # what tensorstore raises, whatever happened
        named = _NAMED_FILE.search(str(error))
        reason = first_line(error).split("[tensorstore_spec")[0].strip()
        raise UserError(f"{named[1] if named else folder}: damaged ({reason}).", REMEDY) from error


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        with disk_errors(folder):
            yield
    except ValueError as error:
        reason = first_line(error).split("[tensorstore_spec")[0].strip()
        if any(words in reason for words in _NO_SPACE):
            raise UserError(
                f"{folder}: the disk is full.", "Free some space and run the same command again."
            ) from error
        raise UserError(f"{folder}: cannot be written ({reason}).", "Choose a folder you may write to.") from error
