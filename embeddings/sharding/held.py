"""What a rank holds, part by part: for whoever saves or exports tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embeddings.config import TableConfig
from embeddings.hashing import splitmix64_of
from embeddings.sharding.sharded import BUCKET_BITS, BUCKETS, ShardedTable

if TYPE_CHECKING:
    from embeddings.kernels.group import Table


@dataclass(frozen=True, eq=False)
class HeldShard:
    """A part of a table as a rank holds it.

    config: the whole table's. rank: who holds it. part: its number among the table's. columns: [start, stop). buckets:
    [b] int64, rising: whose ids it holds. ids: [n] int64, rising: the only ones it holds; None: any. but: [n] int64,
    rising: ids of its buckets that another part holds. replicated: every rank holds the same.
    """

    config: TableConfig
    rank: int
    part: int
    columns: tuple[int, int]
    buckets: np.ndarray
    ids: np.ndarray | None
    but: np.ndarray | None
    replicated: bool
    held: Table

    @property
    def static(self) -> bool:
        return self.config.vocabulary_size is not None

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The numbers of the rows of `ids`, int64 of any shape, all of them held here, in a static part."""
        assert self.config.vocabulary_size is not None
        if self.ids is not None:
            return np.searchsorted(self.ids, ids)
        if self.replicated:
            return ids
        sizes = np.zeros(BUCKETS, np.int64)
        sizes[self.buckets] = bucket_sizes(self.config.vocabulary_size)[self.buckets]
        return (np.cumsum(sizes) - sizes)[ids % BUCKETS] + ids // BUCKETS

    def ids_of_rows(self) -> np.ndarray:
        """[rows] int64: the id of each row held here of a static part, in their order."""
        assert self.config.vocabulary_size is not None
        if self.ids is not None:
            return self.ids
        every = np.arange(self.config.vocabulary_size)
        if self.replicated:
            return every
        return np.concatenate([np.zeros(0, np.int64), *(every[bucket::BUCKETS] for bucket in self.buckets)])


def held_shards(table: ShardedTable) -> list[HeldShard]:
    """Those of a table's parts of which its rank holds something."""
    shards = []
    for number, part in enumerate(table.parts):
        if part.held is None:
            continue
        everything = np.arange(BUCKETS)
        buckets = everything if part.owners is None else np.flatnonzero(part.owners == table.rank)
        cold = part.ids is None and table.hot_ids is not None
        but = table.hot_ids if cold else None
        where = (table.config, table.rank, number, part.columns)
        shards.append(HeldShard(*where, buckets, part.ids, but, part.replicated, part.held))
    return shards


def whole(table: Table) -> HeldShard:
    """A table that one rank holds alone."""
    return HeldShard(table.config, 0, 0, (0, table.config.dim), np.arange(BUCKETS), None, None, True, table)


def bucket_sizes(vocabulary_size: int) -> np.ndarray:
    """[BUCKETS] int64: how many ids of a static table are in each."""
    return np.maximum(vocabulary_size - np.arange(BUCKETS) + BUCKETS - 1, 0) // BUCKETS


def id_hashes(ids: np.ndarray) -> np.ndarray:
    """[n] uint64, a bijection of the ids [n] int64. A dynamic table's bucket is their first BUCKET_BITS bits."""
    return splitmix64_of(ids.astype(np.uint64))


def buckets_of_hashes(hashes: np.ndarray) -> np.ndarray:
    """[n] int64: the logical buckets of a dynamic table's ids, by `id_hashes`."""
    return (hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
