"""Tables of a checkpoint as files for others: of each table its ids and their vectors, as npy and as Parquet."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embeddings.checkpoints.manifest import Saved, table_folder
from embeddings.checkpoints.saved_rows import SavedDynamicRows, SavedRows, opened
from embeddings.checkpoints.variables import BYTES_AT_ONCE, LAST_UPDATE
from embeddings.tables.dynamic import NO_ID
from foundation.errors import UserError
from foundation.files import disk_errors, file_entry

IDS, VECTORS, PARQUET, SHARED, GONE = "ids.npy", "vectors.npy", "rows.parquet", "shared.npy", "gone.npy"

Advance = Callable[[int], None]


def export_tables(
    folder: str | Path,
    out: str | Path,
    since: int | Path | None = None,
    advance: Advance = lambda rows: None,
) -> dict[str, Any]:
    """Writes below `out`, a folder that is there, one folder for each table that `save_tables` wrote in `folder`:
    `ids.npy` [n] int64, rising, and `vectors.npy` [n, dim] float32, row by row theirs; `rows.parquet`, the same as
    columns "id" and "vector"; `shared.npy` [dim] float32 of a dynamic table, the vector of all other ids. Returns what
    each folder holds, by table.

    since: only rows touched after so many updates of the table; or only those whose bits are others than in the tables
    saved in another folder, and `gone.npy` [n] int64, the ids that only those have. advance: told how many rows were
    written.

    Raises:
      UserError: what is read is damaged, the disk is full, or nothing tells when a static table's rows were updated.
    """
    saved = Saved.read(Path(folder))
    before = Saved.read(since) if isinstance(since, Path) else None
    index = {}
    for number, name in enumerate(saved.tables):
        rows, own = opened(saved, name), table_folder(number, name)
        arrays = {}
        if before is not None:
            ids, arrays[GONE] = _changed(rows, before, name)
        else:
            ids = _all(rows) if since is None else _touched(rows, int(str(since)))
        with disk_errors(Path(out) / own):
            (Path(out) / own).mkdir()
            index[name] = {"folder": own, **_written(rows, ids, arrays, Path(out) / own, advance)}
    return index


def _all(rows: SavedRows) -> np.ndarray:
    if isinstance(rows, SavedDynamicRows):
        return np.sort(rows.in_order)
    return np.arange(rows.count)


def _touched(rows: SavedRows, step: int) -> np.ndarray:
    name = "last_seen" if isinstance(rows, SavedDynamicRows) else LAST_UPDATE
    if name not in rows.variables:
        raise UserError(
            f"{rows.root}: table '{rows.table.name}' does not say when its rows were last updated.",
            "Train it with TableConfig(track_updates=True), as training.incremental does, or give a checkpoint to "
            "compare with: --since CHECKPOINT.",
        )
    found = [ids[rows.read(name, ids) > step] for ids in rows.ids()] if rows.count else []
    return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))


def _changed(rows: SavedRows, before: Saved, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids whose vectors are others than before, ids that had a row only before), both rising."""
    if name not in before.tables:
        return _all(rows), np.zeros(0, np.int64)
    old = opened(before, name)
    if old.table.dim != rows.table.dim:
        raise UserError(
            f"{before.root}: table '{name}' has dim {old.table.dim}; in {rows.root} it has {rows.table.dim}.",
            "Give an earlier checkpoint of the same tables.",
        )
    changed, gone = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for ids in rows.ids():
        held = old.holds(ids)
        changed.append(ids[~held])
        ids = ids[held]
        if len(ids):
            bits = [table.read("rows", ids).astype(np.float32).view(np.uint32) for table in (rows, old)]
            changed.append(ids[(bits[0] != bits[1]).any(1)])
    for ids in old.ids():
        gone.append(ids[~rows.holds(ids)])
    return np.sort(np.concatenate(changed)), np.sort(np.concatenate(gone))


def _written(
    rows: SavedRows, ids: np.ndarray, arrays: dict[str, np.ndarray], folder: Path, advance: Advance
) -> dict[str, Any]:
    dim = rows.table.dim
    np.save(folder / IDS, ids)
    vectors = _Vectors(folder / VECTORS, len(ids), dim)
    for some in rows.ids():
        some = np.sort(some)
        places = np.searchsorted(ids, some)
        here = np.flatnonzero(places < len(ids))
        here = here[ids[places[here]] == some[here]]
        if len(here):
            vectors.put(places[here], rows.read("rows", some[here]).astype(np.float32))
        advance(len(some))
    vectors.close()
    _write_parquet(ids, vectors, folder / PARQUET)
    if isinstance(rows, SavedDynamicRows):
        arrays = {**arrays, SHARED: rows.read("rows", np.array([NO_ID]))[0].astype(np.float32)}
    for name, values in arrays.items():
        np.save(folder / name, values)
    files = {entry.name: file_entry(entry) for entry in sorted(folder.iterdir())}
    kind = "dynamic" if isinstance(rows, SavedDynamicRows) else "static"
    return {"kind": kind, "rows": len(ids), "of_rows": rows.count, "dim": dim, "files": files}


class _Vectors:
    """A new npy file of [rows, dim] float32, its rows written in any order."""

    def __init__(self, path: Path, rows: int, dim: int) -> None:
        self.path, self.shape = path, (rows, dim)
        with path.open("w+b") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            self._begins = file.tell()
            size = self._begins + 4 * rows * dim
            if hasattr(os, "posix_fallocate"):  # a disk without room says so now: later, a map would be a SIGBUS
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)

    def put(self, places: np.ndarray, vectors: np.ndarray) -> None:
        """Writes vectors [n, dim] at places [n], rising."""
        values = np.ndarray(self.shape, "<f4", self._map, self._begins)
        stretch = max(BYTES_AT_ONCE // (4 * self.shape[1]), 1)
        ends = np.searchsorted(places, np.arange(stretch, self.shape[0] + stretch, stretch))
        for start, end in itertools.pairwise([0, *ends]):  # places far apart would bring every page into memory
            values[places[start:end]] = vectors[start:end]
            if hasattr(mmap, "MADV_DONTNEED"):  # they are the disk's now, no memory of ours
                self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        self._map.flush()
        self._map.close()

    def pieces(self) -> Iterator[tuple[slice, np.ndarray]]:
        """What was written, in order."""
        rows, dim = self.shape
        step = max(BYTES_AT_ONCE // (4 * dim), 1)
        with self.path.open("rb") as file:
            file.seek(self._begins)
            for start in range(0, rows, step):
                stretch = slice(start, min(start + step, rows))
                yield stretch, np.fromfile(file, "<f4", (stretch.stop - start) * dim)


def _write_parquet(ids: np.ndarray, vectors: _Vectors, path: Path) -> None:
    kind = pa.list_(pa.float32(), vectors.shape[1])
    with pq.ParquetWriter(path, pa.schema([("id", pa.int64()), ("vector", kind)])) as writer:
        for stretch, flat in vectors.pieces():
            of_rows = pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])
            writer.write_table(pa.table({"id": ids[stretch], "vector": of_rows}))
