"""Held-out queries from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foundation.errors import UserError, first_line
from retrieval.index.sources.source import open_source


def read_queries(path: Path, most: int, seed: int, dim: int | None = None) -> np.ndarray:
    """Up to `most` query vectors [Q, D] float32, a sample of what is there: an npy file, or whatever a source of
    vectors is. dim: D, where it is known.

    Raises:
      UserError: it cannot be read, is empty, of another dimension, or a query is not finite.
    """
    if path.suffix == ".npy":
        try:
            queries = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file of queries.", "Give an npy file [Q, D] float32.") from error
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path}: cannot be read as npy ({first_line(error)}).", "Give [Q, D] float32.") from error
        if queries.ndim != 2 or queries.dtype.kind != "f" or not len(queries):
            raise UserError(
                f"{path}: shape {list(queries.shape)} and type {queries.dtype}; queries are [Q, D] float32, Q > 0.",
                "Give one query vector a row.",
            )
        queries = np.array(queries[_drawn(len(queries), most, seed)], np.float32)
    else:
        source = open_source(path)
        queries = source_rows(path, _drawn(source.size, most, seed))
    if dim not in (None, queries.shape[1]):
        raise UserError(
            f"{path}: queries of {queries.shape[1]} numbers, where the vectors have {dim} numbers.",
            "Give queries of the model that the vectors are from.",
        )
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{path}: {int((~finite).sum())} of {len(queries)} queries are not finite.", "See what made them."
        )
    return queries


def source_rows(path: Path, rows: np.ndarray) -> np.ndarray:
    """The vectors [n, D] of a source at `rows` [n], rising."""
    source = open_source(path)
    out = np.empty((len(rows), source.dim), np.float32)
    done = 0
    for block in source.blocks(0, source.size):
        first, last = np.searchsorted(rows, [done, done + len(block)])
        out[first:last] = block[rows[first:last] - done]
        done += len(block)
    return out


def _drawn(size: int, most: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(size)[:most])
