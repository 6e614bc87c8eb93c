"""A table as one rank of several holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embeddings.config import TableConfig
from embeddings.kernels.reference_exchange import numbered
from embeddings.kernels.streams import AS_THEY_ARE, Numbering
from embeddings.sharding.default import default_plan
from embeddings.sharding.plan import ShardingPlan, TableSharding
from embeddings.tables.dynamic import DynamicTable
from embeddings.tables.identity import IdPolicy
from embeddings.tables.static import StaticTable
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.kernels.group import Table
    from strategies import Communicator

BUCKET_BITS = 10
BUCKETS = 1 << BUCKET_BITS


@dataclass(frozen=True, eq=False)
class Part:
    """Columns [start, stop) of a table, which travel together. owners: [BUCKETS] int64, the rank that holds each bucket
    of ids; None: every rank holds them all. ids: [n] int64, rising: the only ones, of the hot part of a table; None:
    any. held: what this rank holds of it, if anything."""

    columns: tuple[int, int]
    owners: np.ndarray | None
    ids: np.ndarray | None
    held: Table | None

    @property
    def width(self) -> int:
        return self.columns[1] - self.columns[0]

    @property
    def replicated(self) -> bool:
        return self.owners is None


class ShardedTable:
    """A table's parts under its sharding, and what `rank` holds of them.

    An id of a static table is in the bucket of its value modulo BUCKETS, so that frequent ids, which often stand
    together, are spread; an id of a dynamic table in that of the first bits of its hash. A static shard's rows are in
    the order of its buckets, in a bucket in the order of ids: where a row is, is arithmetic.
    """

    def __init__(self, config: TableConfig, sharding: TableSharding, rank: int) -> None:
        self.config, self.sharding = config, sharding
        self.static = config.vocabulary_size is not None
        self.rank = rank
        self.parts = [
            Part(columns, owners, ids, self._held(columns, owners, ids))
            for columns, owners, ids in layout(config, sharding)
        ]
        self._bases = [None if part.owners is None else self._base(part.owners) for part in self.parts]

    @property
    def hot_ids(self) -> np.ndarray | None:
        """[n] int64, rising: the ids of the last part, which is on every rank; None: no part is so."""
        return self.parts[-1].ids

    def held(self) -> dict[str, Table]:
        """What this rank holds, by the table's name, or the part's where there are several."""
        several = len(self.parts) > 1
        return {
            f"{self.config.name}/{number}" if several else self.config.name: part.held
            for number, part in enumerate(self.parts)
            if part.held is not None
        }

    def rows_of(self, part: int, ids: tf.Tensor) -> tf.Tensor:
        """[n] int64: the numbers of the rows of `ids` [n], all of them this rank's, in a static part."""
        return numbered(self.numbering(part), ids)

    def numbering(self, part: int) -> Numbering:
        """How the ids of a static part become the numbers of its rows here."""
        base, only = self._bases[part], self.parts[part].ids
        if only is not None:
            return Numbering("places", only)
        return AS_THEY_ARE if base is None else Numbering("buckets", base)

    def ids_of(self, part: int) -> np.ndarray:
        """[rows] int64: the ids of the rows this rank holds of a static part, in their order."""
        return self._ids(self.parts[part].owners, self.parts[part].ids)

    def _held(self, columns: tuple[int, int], owners: np.ndarray | None, only: np.ndarray | None) -> Table | None:
        width = columns[1] - columns[0]
        optimizer = self.config.optimizer
        if owners is not None:  # whose norm is known only to all ranks together (`joint`)
            optimizer = replace(optimizer, clipnorm=None)
        if not self.static:
            if owners is not None and not np.any(owners == self.rank):
                return None
            return DynamicTable(replace(self.config, dim=width, optimizer=optimizer), columns[0])
        ids = self._ids(owners, only)
        if not len(ids):
            return None
        whole = owners is None and only is None
        config = replace(self.config, vocabulary_size=len(ids), dim=width, optimizer=optimizer)
        return StaticTable(config, None if whole else ids, columns[0])

    def _ids(self, owners: np.ndarray | None, only: np.ndarray | None) -> np.ndarray:
        vocabulary_size = self.config.vocabulary_size
        assert vocabulary_size is not None
        if only is not None:
            return only
        if owners is None:
            return np.arange(vocabulary_size)
        pieces = [np.arange(bucket, vocabulary_size, BUCKETS) for bucket in np.flatnonzero(owners == self.rank)]
        return np.concatenate([np.zeros(0, np.int64), *pieces])

    def _base(self, owners: np.ndarray) -> np.ndarray:
        """[BUCKETS] int64: where each bucket's rows begin among those of its owner, this rank."""
        if not self.static:
            return np.zeros(0, np.int64)
        assert self.config.vocabulary_size is not None
        sizes = np.maximum(self.config.vocabulary_size - np.arange(BUCKETS) + BUCKETS - 1, 0) // BUCKETS
        mine = np.where(owners == self.rank, sizes, 0)
        return np.cumsum(mine) - mine


def sharded_tables(
    configs: Mapping[str, TableConfig], plan: ShardingPlan | None, communicator: Communicator
) -> list[ShardedTable]:
    """Every table under the plan, or `default_plan`, as this rank holds it.

    Raises:
      ValueError: the plan is for another number of ranks, or lacks a table or has one more.
    """
    plan = plan or default_plan(configs.values(), communicator.size)
    if plan.ranks != communicator.size:
        raise ValueError(f"the sharding plan is for {plan.ranks} ranks; there are {communicator.size}")
    if plan.tables.keys() != configs.keys():
        raise ValueError(f"the sharding plan is of tables {sorted(plan.tables)}; the layer has {sorted(configs)}")
    return [ShardedTable(config, plan.tables[name], communicator.rank) for name, config in configs.items()]


def layout(
    config: TableConfig, sharding: TableSharding
) -> list[tuple[tuple[int, int], np.ndarray | None, np.ndarray | None]]:
    """(columns, owners, ids) of each part."""
    everything, ranks = (0, config.dim), np.array(sharding.ranks, np.int64)
    buckets = np.arange(BUCKETS)
    if config.vocabulary_size is None:  # a bucket of the id table, which may be larger, is held as one
        buckets >>= BUCKET_BITS - IdPolicy.of(config).bucket_bits
    by_bucket = ranks[buckets % len(ranks)]
    if sharding.kind == "data_parallel":
        return [(everything, None, None)]
    if sharding.kind == "column_wise":
        if sum(sharding.columns) != config.dim:
            raise ValueError(
                f"table '{config.name}': its plan has {sum(sharding.columns)} columns, it has {config.dim}"
            )
        stops = np.cumsum(sharding.columns)
        return [
            ((int(stop - width), int(stop)), np.full(BUCKETS, rank), None)
            for rank, width, stop in zip(ranks, sharding.columns, stops, strict=True)
        ]
    if sharding.kind == "hot_cold":
        # the cold part has rows for hot ids too, which nobody asks for: where a row is stays arithmetic
        return [(everything, by_bucket, None), (everything, None, _hot_ids(config, sharding))]
    return [(everything, by_bucket, None)]


def _hot_ids(config: TableConfig, sharding: TableSharding) -> np.ndarray:
    ids = np.array(sharding.hot_ids or range(sharding.hot_rows), np.int64)
    if config.vocabulary_size is None:
        if not sharding.hot_ids:
            raise ValueError(f"table '{config.name}' is dynamic: hot_cold wants its hot_ids")
        if config.admission is not None or config.capacity is not None:
            raise ValueError(f"table '{config.name}': a dynamic table that rejects ids cannot be hot_cold")
    elif ids[0] < 0 or ids[-1] >= config.vocabulary_size:
        raise ValueError(f"table '{config.name}': hot ids lie in 0 to {config.vocabulary_size - 1}")
    return ids
