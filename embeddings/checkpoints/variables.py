"""Rows of a table's variables, taken and put a few at a time: a table is never held twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.kernels.group import Table

BYTES_AT_ONCE = 1 << 24
LAST_UPDATE = "last_update"
BYTES_TOGETHER = 1 << 16  # what is read as one where ranks may want parts of it
_LEAST_ROW_BYTES = 32  # what its number takes besides
_LARGEST_HALF = 65504.0


def variables_of(table: Table) -> dict[str, tf.Variable]:
    """Those with a row for each id, by name: "rows" [n, width], slot variables, [n, width] or [n], and of a static
    table that tracks them "last_update" [n] int64."""
    last_update = getattr(table, LAST_UPDATE, None)
    return {"rows": table.rows, **table.slots, **({} if last_update is None else {LAST_UPDATE: last_update})}


def taken(variable: tf.Variable, numbers: np.ndarray) -> np.ndarray:
    """The rows so numbered, [..., width] or [...]: numbers' shape comes first."""
    return tf.gather(variable, tf.constant(numbers)).numpy()


def put(variable: tf.Variable, numbers: np.ndarray, values: np.ndarray) -> None:
    """Writes rows [n, width] or [n] of any floating dtype: to fewer bits they are rounded to the nearest, and what
    would be infinite is the largest."""
    rows = tf.convert_to_tensor(values)
    if variable.dtype == tf.float16 and rows.dtype != tf.float16:
        wide = tf.cast(rows, tf.float32)
        rows = tf.where(tf.math.is_finite(wide), tf.clip_by_value(wide, -_LARGEST_HALF, _LARGEST_HALF), wide)
    variable.scatter_update(tf.IndexedSlices(tf.cast(rows, variable.dtype), tf.constant(numbers)))


def row_bytes(variable: tf.Variable) -> int:
    width = int(variable.shape[1]) if variable.shape.rank == 2 else 1
    return width * variable.dtype.size


def rows_at_once(variable: tf.Variable) -> int:
    return max(BYTES_AT_ONCE // max(row_bytes(variable), _LEAST_ROW_BYTES), 1)


def stretches(size: int, step: int) -> Iterator[slice]:
    """[0, size) cut."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
