"""What is given to an index, checked: named errors, nothing changed."""

from __future__ import annotations

import numpy as np

from foundation.errors import UserError


def checked_ids(ids: np.ndarray) -> np.ndarray:
    """ids [n] int64, distinct."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise UserError(
            f"the index: ids of shape {list(ids.shape)} and type {ids.dtype}; [n] of integers are wanted.",
            "Map raw ids to int64.",
        )
    if ids.dtype == np.uint64 and len(ids) and ids.max() > np.iinfo(np.int64).max:
        raise UserError(f"the index: id {ids.max()} does not fit int64.", "Map raw ids to int64.")
    ids = ids.astype(np.int64)
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1]
        raise UserError(
            f"the index: id {twice[0]} is given {counts[counts > 1][0]} times ({len(twice)} ids more than once).",
            "Give each id once in a call.",
        )
    return ids


def checked_items(ids: np.ndarray, vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """ids as `checked_ids`; vectors [n, dim] float32, finite, one for each."""
    ids = checked_ids(ids)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim or not dim:
        raise UserError(
            f"the index: vectors of shape {list(vectors.shape)}; [n, {dim or 'dim'}] are wanted.",
            "Give vectors of the tower that the index is for.",
        )
    if len(vectors) != len(ids):
        raise UserError(f"the index: {len(vectors)} vectors for {len(ids)} ids.", "Give one for each.")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise UserError(
            f"the index: the vector of id {ids[np.argmin(finite)]} is not finite ({int((~finite).sum())} such).",
            "Look at what made it.",
        )
    return ids, vectors


def checked_queries(queries: np.ndarray, k: int, dim: int) -> np.ndarray:
    """queries [Q, dim] float32, finite; k at least 1."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise UserError(
            f"the index: queries of shape {list(queries.shape)}; [any, {dim}] are wanted.",
            "Give query vectors of the tower that the candidates are from.",
        )
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise UserError(f"the index: query {int(np.argmin(finite))} is not finite.", "Look at what made it.")
    if k < 1:
        raise UserError(f"the index: {k} neighbours were asked for.", "Ask for at least 1.")
    return queries
