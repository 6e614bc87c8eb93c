"""The cost model: what a table laid over the ranks in one way costs each of them in a step.

A step, as headrace's exchange (embeddings/exchange.py) makes it: every rank finds the distinct ids of its part of the
batch, sends them to their owners, gets their vectors, pools them, and sends the summed gradients back; an owner looks
up what it is asked for, and applies one optimizer step to the distinct rows of the whole batch. Replicated rows are
looked up where they are; their ids and gradients go to every rank, which updates its copy.

The "pooled" exchange is that of systems in which an owner reads the whole batch's ids of its tables itself, and sends
each rank its examples' pooled vectors: nothing is made distinct before it travels. It is there to be simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.loads import (
    ASKER_INTER,
    ASKER_INTRA,
    BYTES,
    COMPONENTS,
    LAUNCH,
    MEMORY,
    OWNER_INTER,
    OWNER_INTRA,
    WIRE,
    OptionCost,
    Placement,
    Share,
    load_of,
)
from embeddings.planner.requests import Asked, asked_of
from embeddings.planner.tables import BYTES_PER_FLOAT, TableSpec, Workload
from embeddings.planner.topology import ClusterTopology
from embeddings.planner.traffic import COUNT_BYTES, ID_BYTES, WireFormat, all_reduce_seconds, latency

ExchangeKind = Literal["distinct", "pooled"]
EXCHANGES: tuple[ExchangeKind, ...] = get_args(ExchangeKind)

# Ops that a training step starts: for each feature (bags, checks, pooling, their gradients), each feature whose outputs
# come pooled (split, joined, and back), each stream of the exchange (a part of a table on its way), each shard held
# (lookup, grouping, sums, optimizer, scatter), each dense layer (product, bias, activation, their gradients, its
# optimizer), and for the step itself (collectives, loss). Counted in embeddings/exchange.py and in the TensorFlow twin
# of the kernels, without those that only rename.
OPS_PER_FEATURE, OPS_PER_POOLED_OUTPUT, OPS_PER_STREAM, OPS_PER_SHARD = 12, 4, 12, 25
OPS_PER_DENSE_LAYER, OPS_PER_STEP = 16, 60

# A row at a random place is fetched in pieces of this size: a line of a CPU's cache, two sectors of a GPU's.
FETCH_BYTES = 64
# Memory traffic of grouping one id: a radix sort of 64-bit keys with 32-bit places, eight passes of a byte each that
# read keys once to count them, then read and write both.
GROUPING_BYTES = 8 * (8 + 2 * 12)
FLOAT_BYTES = 4
COLLECTIVES = 4  # of a step, however many tables: counts, ids, vectors, gradients; and one of the dense layers


@dataclass(frozen=True)
class Demand:
    """What a step asks of some rows. occurrences: ids that one rank looks up; distinct: different ones among them;
    distinct_globally: different ones in the whole batch."""

    occurrences: float
    distinct: float
    distinct_globally: float


class CostModel:
    """Costs of the tables of a workload on a topology. wire: how vectors and gradients travel."""

    def __init__(
        self,
        workload: Workload,
        topology: ClusterTopology,
        wire: WireFormat = "float32",
        exchange: ExchangeKind = "distinct",
    ) -> None:
        self.workload, self.topology, self.wire, self.exchange = workload, topology, wire, exchange
        self.vector_bytes = BYTES_PER_FLOAT[wire]
        self.examples = workload.batch_size / topology.ranks  # of one rank
        self._seconds_per_byte = 1.0 / (topology.memory_bandwidth * topology.memory_efficiency)
        grouping = GROUPING_BYTES * self._seconds_per_byte if topology.grouping is None else 1.0 / topology.grouping
        self._seconds_per_id = grouping
        self._demands: dict[tuple[str, int], tuple[Demand, Demand]] = {}
        self._costs: dict[tuple[str, ShardingOption, int], OptionCost] = {}

    def demands(self, table: TableSpec, hot_rows: int = 0) -> tuple[Demand, Demand]:
        """What a step asks of the table's hottest rows and of the others."""
        key = (table.name, hot_rows)
        if key not in self._demands:
            ranks, law = self.topology.ranks, table.law
            draws = self.examples * table.ids_per_example
            distinct, globally = law.distinct(draws), law.distinct(draws * ranks)
            share, hot, hot_globally = 0.0, 0.0, 0.0
            if hot_rows:
                share = law.share(hot_rows)
                hot, hot_globally = (law.distinct_hottest(n, hot_rows) for n in (draws, draws * ranks))
            self._demands[key] = (
                Demand(draws * share, hot, hot_globally),
                Demand(draws * (1.0 - share), distinct - hot, globally - hot_globally),
            )
        return self._demands[key]

    def load(self, table: TableSpec, placement: Placement) -> np.ndarray:
        """[COMPONENTS, ranks]: what the table so placed adds to each rank."""
        key = (table.name, placement.option, len(placement.ranks))
        if key not in self._costs:
            self._costs[key] = self._cost(table, placement.option, len(placement.ranks))
        return load_of(self._costs[key], placement, table.dim, self.topology)

    def _cost(self, table: TableSpec, option: ShardingOption, owners: int) -> OptionCost:
        """Of the table under an option, over so many ranks."""
        everywhere = np.zeros(COMPONENTS)
        hot, cold = self.demands(table, option.hot_rows)
        replicated = cold if option.kind == "data_parallel" else hot
        if self.exchange == "distinct":
            self._add_asking(everywhere, table, hot.occurrences + cold.occurrences)
            self._add_streams(everywhere, streams_of(option))
        else:
            self._add_asking(everywhere, table, replicated.occurrences)
        if option.kind == "data_parallel":
            self._add_replica(everywhere, table, table.rows, replicated)
            return OptionCost(everywhere, {})
        if option.kind == "hot_cold":
            self._add_replica(everywhere, table, option.hot_rows, replicated)
        if self.exchange == "pooled" and self.topology.ranks > 1:
            everywhere[LAUNCH] += OPS_PER_POOLED_OUTPUT * table.features * self.topology.kernel_launch
        share = self._share if self.exchange == "distinct" else self._pooling_share
        if option.kind == "column_wise":
            parts = {width: share(table, option, table.rows, 1.0, cold, width) for width in set(option.columns)}
            link = self.topology.inter_host if self.topology.hosts > 1 else self.topology.intra_host
            coupled = self.coupled_bytes(table, cold, len(option.columns)) / link.speed
            return OptionCost(everywhere, {width: replace(part, coupled=coupled) for width, part in parts.items()})
        rows = -(-(table.rows - option.hot_rows) // owners)
        part = share(table, option, rows, 1.0 / owners, cold, table.dim)
        if owners < self.topology.ranks or owners == 1:
            return OptionCost(everywhere, {table.dim: part})
        everywhere[[LAUNCH, MEMORY, BYTES]] += part.launch, part.memory, part.bytes
        self._add_to_all(everywhere, part.exchanged)
        return OptionCost(everywhere, {})

    def _add_asking(self, everywhere: np.ndarray, table: TableSpec, ids: float) -> None:
        """A rank groups its own ids, pools their vectors, and sums gradients by id."""
        if not ids:
            return
        everywhere[LAUNCH] += OPS_PER_FEATURE * table.features * self.topology.kernel_launch
        everywhere[MEMORY] += ids * self._seconds_per_id
        moved = self._pooling_bytes(table, ids, self.examples, table.dim)
        if self.exchange == "distinct" and self.topology.ranks > 1:
            moved += self._expanding_bytes(table, ids)
        everywhere[MEMORY] += moved * self._seconds_per_byte

    def _add_streams(self, everywhere: np.ndarray, streams: int) -> None:
        """What a part of a table on its way costs every rank, however few ids it has: its ops, and its counts."""
        if self.topology.ranks > 1:
            everywhere[LAUNCH] += OPS_PER_STREAM * streams * self.topology.kernel_launch
            self._add_to_all(everywhere, COUNT_BYTES * streams * self.topology.ranks)

    def _add_replica(self, everywhere: np.ndarray, table: TableSpec, rows: int, demand: Demand) -> None:
        """Rows of which every rank holds and updates a copy."""
        came, row = demand.distinct * self.topology.ranks, FLOAT_BYTES * table.dim
        everywhere[BYTES] += table.bytes_of(rows)
        everywhere[LAUNCH] += OPS_PER_SHARD * self.topology.kernel_launch
        everywhere[MEMORY] += came * (self._seconds_per_id + row * self._seconds_per_byte)
        everywhere[MEMORY] += self._update_seconds(table, demand.distinct_globally, table.dim)
        self._add_to_all(everywhere, demand.distinct * (ID_BYTES + table.dim * self.vector_bytes))

    def _add_to_all(self, everywhere: np.ndarray, size: float) -> None:
        """Every rank sends so many bytes to every other."""
        topology = self.topology
        within = size * (topology.devices_per_host - 1) / topology.intra_host.speed
        between = size * (topology.ranks - topology.devices_per_host) / topology.inter_host.speed
        everywhere[[OWNER_INTRA, ASKER_INTRA]] += within
        everywhere[[OWNER_INTER, ASKER_INTER]] += between

    def _share(
        self, table: TableSpec, option: ShardingOption, rows: int, share: float, demand: Demand, columns: int
    ) -> Share:
        """Of an owner that holds so many columns of so many rows, this share of those demanded, and answers with
        vectors of distinct ids."""
        seconds = self._update_seconds(table, demand.distinct_globally * share, columns)
        launch, ranks = OPS_PER_SHARD * self.topology.kernel_launch, self.topology.ranks
        if ranks == 1:
            return Share(table.bytes_of(rows, columns), launch, seconds, 0.0)
        asked, row = demand.distinct * share * ranks, FLOAT_BYTES * columns
        moved = asked * (_fetched(table.row_bytes(columns)) + 2 * row)  # looked up, sent on; gradients come back
        seconds += asked * self._seconds_per_id + moved * self._seconds_per_byte
        ids, vectors = self.exchanged_bytes(table, option, share, columns)
        return Share(table.bytes_of(rows, columns), launch, seconds, ids + 2 * vectors)

    def _pooling_share(
        self, table: TableSpec, option: ShardingOption, rows: int, share: float, demand: Demand, columns: int
    ) -> Share:
        """The same of an owner that looks up the whole batch and answers with pooled vectors. Ids are grouped twice:
        for the gradients of the lookup, and by the optimizer, which takes any gradient."""
        ids, ranks = demand.occurrences * self.topology.ranks * share, self.topology.ranks
        seconds = self._update_seconds(table, demand.distinct_globally * share, columns)
        seconds += 2 * ids * self._seconds_per_id
        seconds += self._pooling_bytes(table, ids, self.workload.batch_size, columns) * self._seconds_per_byte
        launch = (OPS_PER_SHARD + OPS_PER_FEATURE * table.features) * self.topology.kernel_launch
        exchanged = 2 * self.exchanged_bytes(table, option, share, columns)[1] if ranks > 1 else 0.0
        return Share(table.bytes_of(rows, columns), launch, seconds, exchanged)

    def exchanged_bytes(
        self, table: TableSpec, option: ShardingOption, share: float, columns: int
    ) -> tuple[float, float]:
        """(ids, vectors) that a rank exchanges with an owner of this share of the rows; gradients are as many bytes as
        vectors."""
        if self.exchange == "pooled":
            return 0.0, self.examples * table.features * columns * self.vector_bytes
        asked = self.asked(table, option, share, columns)
        return asked.ids_of(share) * ID_BYTES, asked.vectors_of(share) * columns * self.vector_bytes

    def asked(self, table: TableSpec, option: ShardingOption, share: float, columns: int) -> Asked:
        """What a rank asks such owners for."""
        return asked_of(table, self.examples, option.hot_rows, share, columns * self.vector_bytes)

    def coupled_bytes(self, table: TableSpec, demand: Demand, parts: int) -> float:
        """What an owner of some columns sends the owners of the others: of every row that came the sum of its
        gradient's squares, which row-wise Adagrad takes over all columns."""
        if table.optimizer != "RowWiseAdagrad" or self.exchange == "pooled":
            return 0.0
        return FLOAT_BYTES * demand.distinct * self.topology.ranks * (parts - 1)

    def _pooling_bytes(self, table: TableSpec, ids: float, examples: float, columns: int) -> float:
        """Moved by reading so many vectors at random places and writing the pooled ones, and by as much backward."""
        row = FLOAT_BYTES * columns
        return 2 * ids * _fetched(row) + 2 * examples * table.features * row

    def _expanding_bytes(self, table: TableSpec, ids: float) -> float:
        """Moved besides, by a rank whose vectors came through the exchange: it writes one out for each id, and sums the
        gradients at random places; for bags of ids, vectors and gradients are read once more."""
        row = FLOAT_BYTES * table.dim
        return ids * (_fetched(row) + (2 if table.pooling_factor == 1 else 4) * row)

    def _update_seconds(self, table: TableSpec, rows: float, columns: int) -> float:
        """Of one optimizer step: rows and slot variables are read and written."""
        moved = _fetched(table.row_bytes(columns)) + _fetched(table.slot_bytes(columns))
        return 2 * rows * moved * self._seconds_per_byte

    @cached_property
    def dense_seconds(self) -> float:
        """Of the dense layers' products, on every rank."""
        return self.workload.dense.flops * self.examples / (self.topology.flops * self.topology.flops_efficiency)

    @cached_property
    def launch_seconds(self) -> float:
        """Of starting the ops that belong to no table."""
        return (OPS_PER_STEP + OPS_PER_DENSE_LAYER * self.workload.dense.layers) * self.topology.kernel_launch

    @cached_property
    def dense_wire_seconds(self) -> float:
        """Of the dense all-reduce and of every collective's latency."""
        reduced = all_reduce_seconds(FLOAT_BYTES * self.workload.dense.parameters, self.topology)
        return reduced + (COLLECTIVES + bool(self.workload.dense.parameters)) * latency(self.topology)

    @cached_property
    def fixed_seconds(self) -> float:
        """Of what every plan has in common."""
        return self.dense_seconds + self.launch_seconds + self.dense_wire_seconds

    def step_seconds(self, load: np.ndarray) -> float:
        """Of a step under a whole plan's load [COMPONENTS, ranks]: the ranks wait for each other between working and
        exchanging, so the slowest of each counts. Directions of a link, and links, work side by side."""
        return self.fixed_seconds + float((load[LAUNCH] + load[MEMORY]).max() + load[WIRE].max())


def streams_of(option: ShardingOption) -> int:
    """Parts in which a table travels."""
    return {"column_wise": len(option.columns), "hot_cold": 2}.get(option.kind, 1)


def _fetched(size: int) -> int:
    """Bytes moved to touch so many at a random place."""
    return -(-size // FETCH_BYTES) * FETCH_BYTES
