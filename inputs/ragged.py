"""Rows of different lengths as two flat arrays, the way TensorFlow's RaggedTensor and Arrow's lists hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """`values` [total] and `row_splits` [rows + 1] int64: row i is `values[row_splits[i]:row_splits[i + 1]]`."""

    values: np.ndarray
    row_splits: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence], dtype: type = np.int64) -> Ragged:
        """From a list of lists: for tests and small inputs."""
        lengths = [len(row) for row in rows]
        flat = [value for row in rows for value in row]
        return cls(np.array(flat, dtype=dtype), splits_of(np.array(lengths, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    @property
    def lengths(self) -> np.ndarray:
        """[rows] int64."""
        return np.diff(self.row_splits)

    def row(self, index: int) -> np.ndarray:
        return self.values[self.row_splits[index] : self.row_splits[index + 1]]

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in that order, rows repeated as often as named."""
        return gather_ranges(self.values, self.row_splits[rows], self.row_splits[np.asarray(rows) + 1])

    def row_of_value(self) -> np.ndarray:
        """[total] int64: the row each value stands in."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def map_values(self, values: np.ndarray) -> Ragged:
        """The same rows over other values (an array as long as `values`)."""
        return Ragged(values, self.row_splits)


def splits_of(lengths: np.ndarray) -> np.ndarray:
    """[rows + 1] int64 row_splits of the given lengths [rows]."""
    splits = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits


def gather_ranges(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Ragged:
    """Row i is `values[starts[i]:stops[i]]`, gathered without a Python loop per row."""
    splits = splits_of(stops - starts)
    where = np.arange(splits[-1]) + np.repeat(starts - splits[:-1], stops - starts)
    return Ragged(values[where], splits)


def joined(parts: Sequence[np.ndarray | Ragged]) -> np.ndarray | Ragged:
    """The rows of all, one part behind the other; all are arrays, or all ragged."""
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if not ragged:
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    values = np.concatenate([part.values for part in ragged])
    return Ragged(values, splits_of(np.concatenate([part.lengths for part in ragged])))
