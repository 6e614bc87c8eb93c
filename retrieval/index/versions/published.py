"""What can be published as a version: a folder of an index, opened by what it says it is, and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from foundation.errors import UserError
from retrieval.index.exact import exact_top
from retrieval.index.live import folder as live_folder
from retrieval.index.live.config import LiveConfig
from retrieval.index.live.index import LiveIndex
from retrieval.index.recall import shares_found
from retrieval.index.searcher import SCANN
from retrieval.index.sharded.index import MANIFEST as SHARDED_MANIFEST
from retrieval.index.sharded.index import ShardedIndex
from retrieval.index.sharded.shard import IDS
from retrieval.index.sources.source import Items

JUDGED_AT = 100  # neighbours
JUDGED_ON = 256  # queries
_ROWS_AT_ONCE = 1 << 16
_VECTORS = "dataset.npy"  # where ScaNN scores again in float32


class Opened(Protocol):
    """An index that answers."""

    @property
    def size(self) -> int: ...
    @property
    def dim(self) -> int: ...
    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...


def open_index(folder: Path, threads: int | None = None) -> Opened:
    """A sharded index or a saved live one (then only read). threads: of a search (default: all usable cores).

    Raises:
      UserError: it is neither, or a file of it is missing or not the one that was written.
    """
    see_index(folder)
    if (folder / SHARDED_MANIFEST).is_file():
        return ShardedIndex.load(folder, threads)
    return LiveIndex.load(folder, LiveConfig(shadow_rate=0, search_threads=threads), background=False)


def see_index(folder: Path) -> None:
    """Raises a UserError where a folder says of itself neither that it is a sharded index nor a live one."""
    if not any((folder / name).is_file() for name in (SHARDED_MANIFEST, live_folder.MANIFEST)):
        raise UserError(
            f"{folder}: no index is here ({SHARDED_MANIFEST} or {live_folder.MANIFEST}).",
            "Give a folder that `headrace index build` or LiveIndex.save wrote.",
        )


def vectors_of(folder: Path) -> Items:
    """The items of an index's folder.

    Raises:
      UserError: it does not hold its vectors in full precision.
    """
    if (folder / live_folder.MANIFEST).is_file():
        pairs = [(folder / live_folder.IDS, folder / live_folder.VECTORS)]
    else:
        shards = [folder / name for name in ShardedIndex.check(folder).shards]
        pairs = [(shard / IDS, shard / SCANN / _VECTORS) for shard in shards]
    for ids_file, vectors_file in pairs:
        if not vectors_file.is_file():
            raise UserError(
                f"{vectors_file}: the index does not hold its vectors in float32, so its recall cannot be judged.",
                "Give what it was built from: --vectors SOURCE.",
            )
        ids = np.load(ids_file, allow_pickle=False)
        vectors = np.load(vectors_file, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            yield ids[start : start + _ROWS_AT_ONCE], np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float32)


def judged_recall(index: Opened, items: Items, queries: np.ndarray) -> tuple[float, int]:
    """(recall of the exact top 100, or of all where there are fewer; how many items there are). queries [Q, D]: the
    first few hundred are asked."""
    queries = np.ascontiguousarray(queries[:JUDGED_ON], np.float32)
    k = min(JUDGED_AT, max(index.size, 1))
    found, _ = index.search(queries, k)
    scores = np.full(found.shape, -np.inf, np.float32)  # true ones of what was found
    wanted = np.full((len(queries), k), -np.inf, np.float32)
    count = 0
    for ids, vectors in items:
        _, values = exact_top(vectors, None, ids, queries, k, None)
        wanted = -np.sort(-np.hstack([wanted, values]), axis=1)[:, :k]
        order = np.argsort(ids)
        places = order[np.searchsorted(ids, found, sorter=order).clip(max=len(ids) - 1)]
        row, column = np.nonzero(ids[places] == found)
        scores[row, column] = np.einsum("nd,nd->n", vectors[places[row, column]], queries[row])
        count += len(ids)
    return float(shares_found(scores, wanted).mean()), count
