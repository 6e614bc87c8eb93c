"""A table as files that numpy alone reads, written and read piece by piece: no second copy of it is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from embeddings.layer import ShardedEmbedding
from embeddings.tables.dynamic import DynamicTable
from foundation.errors import UserError, damaged
from foundation.files import atomic_directory, disk_errors
from foundation.tf import tf

ROWS, IDS = "rows.npy", "ids.npy"
_BYTES_PER_PIECE = 1 << 24


def write_table(layer: ShardedEmbedding, name: str, folder: str | Path) -> None:
    """Writes a table's rows as `rows.npy`, [n, dim] float32, into a new folder, whole or not at all. Of a dynamic
    table, `ids.npy` [n - 1] int64 rises, rows[0] is that of ids without a row, and rows[i + 1] that of ids[i].

    Raises:
      UserError: the folder is there already, or cannot be written.
    """
    if Path(folder).exists():
        raise UserError(f"{folder}: this is there already.", "Name a folder that is not.")
    table = layer.held(name)
    dim, places = table.config.dim, None
    if isinstance(table, DynamicTable):
        ids, places = table.ids_and_rows()
    count = int(table.rows.shape[0]) if places is None else len(places)
    with atomic_directory(folder) as new, disk_errors(folder):
        if places is not None:
            np.save(new / IDS, ids)
        with (new / ROWS).open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for start, stop in _pieces(count, dim):
                wanted = tf.range(start, stop, dtype=tf.int64) if places is None else tf.constant(places[start:stop])
                file.write(tf.cast(tf.gather(table.rows, wanted), tf.float32).numpy().tobytes())


def read_table(layer: ShardedEmbedding, name: str, folder: str | Path) -> None:
    """Sets a static table's rows to those that `write_table` wrote; slot variables stay as they are. In 16 bits a row
    is rounded to the nearest.

    Raises:
      UserError: the files are missing, damaged, or of another shape; the table is then as it was.
    """
    table, path = layer.held(name), Path(folder) / ROWS
    if isinstance(table, DynamicTable):
        raise ValueError(f"table '{name}' is dynamic: it is restored from a checkpoint")
    variable, remedy = table.rows, "Write it again, or name another folder."
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.", remedy)
    with damaged(path, remedy):
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.shape != tuple(variable.shape) or rows.dtype != np.float32:
        raise UserError(
            f"{path}: {rows.dtype} of shape {rows.shape}; table '{name}' wants float32 of {tuple(variable.shape)}."
        )
    begins = path.stat().st_size - rows.nbytes
    for start, stop in _pieces(*rows.shape):  # not through the map, whose pages would stay in memory
        piece = np.fromfile(path, np.float32, (stop - start) * rows.shape[1], offset=begins + 4 * start * rows.shape[1])
        piece = tf.cast(piece.reshape(stop - start, -1), variable.dtype)
        variable.scatter_update(tf.IndexedSlices(piece, tf.range(start, stop)))


def _pieces(count: int, dim: int) -> Iterator[tuple[int, int]]:
    step = max(_BYTES_PER_PIECE // (4 * dim), 1)
    for start in range(0, count, step):
        yield start, min(start + step, count)
