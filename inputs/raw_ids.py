"""Which raw value has which embedding id: vocabularies found again in a feature space, and one mapped to another."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inputs.features import FeatureSpace
from inputs.ragged import Ragged


def vocabularies(space: FeatureSpace, hashed: Collection[str]) -> dict[str, pa.Array]:
    """By table, the raw values of its embedding ids 1, 2, ..., all of them; not of `hashed` features, whose ids are
    shared."""
    return {table: _raw_of_ids(raw, ids) for table, name, raw, ids in space.raw_columns() if name not in hashed}


def mapped_ids(here: pa.Array, there: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(embedding ids of another vocabulary, those of the same raw values in this one) [n] int64 each, the ids here
    rising; first 0, what is unknown, of both. Values of different types are compared as text."""
    if here.type != there.type:
        here, there = pc.cast(here, pa.string()), pc.cast(there, pa.string())
    found = pc.fill_null(pc.index_in(here, value_set=there), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    known = np.flatnonzero(found >= 0)
    return np.concatenate([[0], found[known] + 1]), np.concatenate([[0], known + 1])


def _raw_of_ids(raw: pa.Array | pa.ChunkedArray, ids: np.ndarray | Ragged) -> pa.Array:
    column = raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw
    if isinstance(ids, Ragged):
        column, flat = pc.list_flatten(column), ids.values
    else:
        flat = ids[len(ids) - len(column) :]
    known, first = np.unique(flat, return_index=True)
    return column.take(pa.array(first[known > 0]))
