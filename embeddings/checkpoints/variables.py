"""Rows of a table's variables, taken and put a few at a time: a table is never held twice."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from embeddings.kernels import kernels
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.kernels.group import Table

BYTES_AT_ONCE = 1 << 24
AT_WORK = 8  # pieces of that size that are being written at once: a disk is kept busy
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


def addresses_of(variables: Sequence[tf.Variable]) -> list[int] | None:
    """Where each lies in this process' memory; None: nobody can tell, or it is another's."""
    if not variables or any(tf.DeviceSpec.from_string(variable.device).job == "ps" for variable in variables):
        return None
    return kernels().addresses(variables)


def rows_of(variable: tf.Variable) -> int:
    """As many as it has now: those of dynamic tables grow. (Its value is not asked for: that might copy it.)"""
    return int(tf.raw_ops.VariableShape(input=variable.handle, out_type=tf.int64)[0])


def put(variable: tf.Variable, numbers: np.ndarray, values: np.ndarray) -> None:
    """Writes rows [..., width] or [...] of any floating dtype, numbers' shape coming first: to fewer bits they are
    rounded to the nearest, and what would be infinite is the largest."""
    dtype, addresses = np.dtype(variable.dtype.as_numpy_dtype), addresses_of([variable])
    if addresses is not None and values.dtype == dtype:
        shape = (rows_of(variable), *variable.shape[1:])
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < shape[0]:
            raise IndexError(f"{variable.name}: rows {numbers.min()} to {numbers.max()} of {shape[0]}")
        there = (ctypes.c_char * (int(np.prod(shape)) * dtype.itemsize)).from_address(addresses[0])
        np.frombuffer(there, dtype).reshape(shape)[numbers] = values
        return
    rows = tf.convert_to_tensor(values)
    if variable.dtype == tf.float16 and rows.dtype != tf.float16:
        wide = tf.cast(rows, tf.float32)
        rows = tf.where(tf.math.is_finite(wide), tf.clip_by_value(wide, -_LARGEST_HALF, _LARGEST_HALF), wide)
    variable.scatter_update(tf.IndexedSlices(tf.cast(rows, variable.dtype), tf.constant(numbers)))


def row_bytes(variable: tf.Variable) -> int:
    width = int(variable.shape[1]) if variable.shape.rank == 2 else 1
    return width * variable.dtype.size


def rows_at_once(variable: tf.Variable) -> int:
    return rows_in_bytes_at_once(row_bytes(variable))


def rows_in_bytes_at_once(bytes_of_row: int) -> int:
    return max(BYTES_AT_ONCE // max(bytes_of_row, _LEAST_ROW_BYTES), 1)


def stretches(size: int, step: int) -> Iterator[slice]:
    """[0, size) cut."""
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
