"""Which columns of a saved part go where in a part that is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embeddings.checkpoints.arrays import Reader
from embeddings.checkpoints.manifest import SavedPart


@dataclass(frozen=True, eq=False)
class Source:
    """A saved variable, or columns of one. wanted: those of its columns; into: where they go. None: it has none."""

    part: SavedPart
    reader: Reader
    wanted: slice | None
    into: slice | None

    def read(self, *index: slice | np.ndarray) -> np.ndarray:
        """The wanted columns of rows, each index that is an array being of its own dimension."""
        return self.reader.read(*index, *self._columns)

    def read_at(self, *index: slice | np.ndarray) -> np.ndarray:
        """The same, indices that are arrays being taken together."""
        return self.reader.read_at(*index, *self._columns)

    def put(self, out: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes what was read to its columns of `out`, in the places `rows` along the first dimension."""
        if self.into is None:
            out[rows] = values
        else:
            out[rows, ..., self.into] = values

    @property
    def _columns(self) -> tuple[slice, ...]:
        return () if self.wanted is None else (self.wanted,)


def sources(root: Path, parts: Sequence[SavedPart], name: str, columns: tuple[int, int], wide: bool) -> list[Source]:
    """Where the variable `name` of a part with these columns comes from. What has one number a row is the same in all
    parts of a row: it comes from that which has the first of the columns."""
    found = []
    for part in parts:
        first, last = part.columns
        start, stop = max(first, columns[0]), min(last, columns[1])
        if not wide and first <= columns[0] < last:
            found.append(Source(part, Reader(root, part.arrays[name]), None, None))
        elif wide and start < stop:
            wanted, into = slice(start - first, stop - first), slice(start - columns[0], stop - columns[0])
            found.append(Source(part, Reader(root, part.arrays[name]), wanted, into))
    return found
