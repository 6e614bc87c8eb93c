"""The cost model: what a table laid over the ranks in one way costs each of them in a step.

A step, as headrace's exchange (embeddings/exchange.py) makes it: every rank finds the distinct ids of its part of the
batch, sends them to their owners, gets their vectors, pools them, and sends the summed gradients back; an owner looks
up what it is asked for, and applies one optimizer step to the distinct rows of the whole batch. Replicated rows are
looked up where they are; their ids and gradients go to every rank, which updates its copy.

The "pooled" exchange is that of systems in which an owner reads the whole batch's ids of its tables itself, and sends
each rank its examples' pooled vectors: nothing is made distinct before it travels. It is there to be simulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from embeddings.planner.counted import COUPLED_PASSES, LEVELS_PER_GROUPING, SEARCHES
from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.fixed import FLOAT_BYTES, FixedCosts
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
from embeddings.planner.traffic import COUNT_BYTES, ID_BYTES, WireFormat

ExchangeKind = Literal["distinct", "pooled"]
EXCHANGES: tuple[ExchangeKind, ...] = get_args(ExchangeKind)

# A row at a random place is fetched in pieces of this size: a line of a CPU's cache, two sectors of a GPU's.
FETCH_BYTES = 64


@dataclass(frozen=True)
class Demand:
    """What a step asks of some rows. occurrences: ids that one rank looks up; distinct: different ones among them;
    distinct_globally: different ones in the whole batch."""

    occurrences: float
    distinct: float
    distinct_globally: float


class CostModel(FixedCosts):
    """Costs of the tables of a workload on a topology. wire: how vectors and gradients travel."""

    def __init__(
        self,
        workload: Workload,
        topology: ClusterTopology,
        wire: WireFormat = "float32",
        exchange: ExchangeKind = "distinct",
    ) -> None:
        super().__init__(workload, topology)
        self.wire, self.exchange = wire, exchange
        self.vector_bytes = BYTES_PER_FLOAT[wire]
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
            share = 1.0 if option.kind == "column_wise" else 1.0 / owners
            self._add_asking(everywhere, table, hot.occurrences + cold.occurrences, option, share)
            self._add_streams(everywhere, streams_of(option))
        else:
            self._add_asking(everywhere, table, replicated.occurrences, option, 1.0)
        if option.kind == "data_parallel":
            self._add_replica(everywhere, table, table.rows, replicated)
            return OptionCost(everywhere, {})
        if option.kind == "hot_cold":
            self._add_replica(everywhere, table, option.hot_rows, replicated)
            levels = math.log2(1 + option.hot_rows) / LEVELS_PER_GROUPING
            everywhere[MEMORY] += SEARCHES * (hot.distinct + cold.distinct) * levels * self._seconds_per_id
        if self.exchange == "pooled" and self.topology.ranks > 1:
            everywhere[LAUNCH] += self._ops.pooled_output * table.features * self.topology.kernel_launch
        of_owner = self._share if self.exchange == "distinct" else self._pooling_share
        if option.kind == "column_wise":
            parts = {width: of_owner(table, option, table.rows, 1.0, cold, width) for width in set(option.columns)}
            link = self.topology.inter_host if self.topology.hosts > 1 else self.topology.intra_host
            coupled = self.coupled_bytes(table, cold, len(option.columns)) / link.speed
            return OptionCost(everywhere, {width: replace(part, coupled=coupled) for width, part in parts.items()})
        rows = -(-(table.rows - option.hot_rows) // owners)
        part = of_owner(table, option, rows, 1.0 / owners, cold, table.dim)
        if owners < self.topology.ranks or owners == 1:
            return OptionCost(everywhere, {table.dim: part})
        everywhere[[LAUNCH, MEMORY, BYTES]] += part.launch, part.memory, part.bytes
        self._add_to_all(everywhere, part.exchanged)
        return OptionCost(everywhere, {})

    def _add_asking(
        self, everywhere: np.ndarray, table: TableSpec, ids: float, option: ShardingOption, share: float
    ) -> None:
        """A rank groups its own ids, pools their vectors, and sums gradients by id. share: of the rows, that an owner
        holds."""
        if not ids:
            return
        everywhere[LAUNCH] += self._feature_ops(table) * self.topology.kernel_launch
        everywhere[MEMORY] += ids * self._seconds_per_id
        if self.exchange == "distinct" and self.topology.ranks > 1:
            vectors = ids
            if option.kind != "data_parallel":  # of bags that owners pool, one of each owner comes
                requests = self.asked(table, option, share, table.dim)
                vectors += requests.vectors_of(share) / share - requests.distinct - requests.ids
            moved = self._pooling_bytes(table, vectors, self.examples, table.dim)
            moved += self._expanding_bytes(table, vectors)
            everywhere[MEMORY] += moved * self._seconds_streamed
        else:
            everywhere[MEMORY] += self._pooling_seconds(table, ids, self.examples, table.dim)

    def _feature_ops(self, table: TableSpec) -> int:
        return table.features * (self._ops.feature + (self._ops.bag if table.pooling_factor != 1 else 0))

    def _shard_ops(self) -> int:
        return self._ops.shard + (self._ops.asked if self.topology.ranks > 1 else 0)

    def _add_streams(self, everywhere: np.ndarray, streams: int) -> None:
        """What a part of a table on its way costs every rank, however few ids it has: its ops, and its counts."""
        if self.topology.ranks > 1:
            everywhere[LAUNCH] += self._ops.stream * streams * self.topology.kernel_launch
            self._add_to_all(everywhere, COUNT_BYTES * streams * self.topology.ranks)

    def _add_replica(self, everywhere: np.ndarray, table: TableSpec, rows: int, demand: Demand) -> None:
        """Rows of which every rank holds and updates a copy."""
        came, row = demand.distinct * self.topology.ranks, FLOAT_BYTES * table.dim
        everywhere[BYTES] += table.bytes_of(rows)
        everywhere[LAUNCH] += self._shard_ops() * self.topology.kernel_launch
        everywhere[MEMORY] += came * (self._seconds_per_arrival + row * self._seconds_streamed)
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
        coupled = columns < table.dim and table.optimizer == "RowWiseAdagrad"
        if coupled:
            moved = COUPLED_PASSES * FLOAT_BYTES * columns * demand.distinct_globally * share
            seconds += moved * self._seconds_streamed
        launch = (self._shard_ops() + self._ops.coupled * coupled) * self.topology.kernel_launch
        ranks = self.topology.ranks
        if ranks == 1:
            return Share(table.bytes_of(rows, columns), launch, seconds, 0.0)
        row = FLOAT_BYTES * columns
        requests = self.asked(table, option, share, columns)
        came, answers = requests.ids_of(share) * ranks, requests.vectors_of(share) * ranks
        looked_up = came * _fetched(table.row_bytes(columns))
        first = demand.distinct_globally * share / max(came, 1e-9)  # others find it near
        seconds += looked_up * (first * self._seconds_per_byte + (1.0 - first) * self._seconds_streamed)
        # answers are sent on, and gradients read as often as ids came
        seconds += came * self._seconds_per_arrival + (answers + came) * row * self._seconds_streamed
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
        seconds += self._pooling_seconds(table, ids, self.workload.batch_size, columns)
        launch = (self._shard_ops() + self._feature_ops(table)) * self.topology.kernel_launch
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

    def _pooling_seconds(self, table: TableSpec, ids: float, examples: float, columns: int) -> float:
        """Of pooling rows that are here, and of summing gradients by row: a row is first read where it lies, and when
        it repeats from where it is near."""
        first = table.law.distinct(ids) * _fetched(FLOAT_BYTES * columns)
        moved = self._pooling_bytes(table, ids, examples, columns)
        return first * self._seconds_per_byte + (moved - first) * self._seconds_streamed

    def _pooling_bytes(self, table: TableSpec, ids: float, examples: float, columns: int) -> float:
        """Moved by reading so many vectors at random places and writing the pooled ones, and by as much backward."""
        row = FLOAT_BYTES * columns
        return 2 * ids * _fetched(row) + 2 * examples * table.features * row

    def _expanding_bytes(self, table: TableSpec, ids: float) -> float:
        """Moved besides, by a rank whose vectors came through the exchange: it writes one out for each id, and sums the
        gradients at random places; for bags of ids, vectors and gradients are read once more."""
        if self.topology.kernels == "compiled":  # which pool where the vectors lie
            return 0.0
        row = FLOAT_BYTES * table.dim
        return ids * (_fetched(row) + (2 if table.pooling_factor == 1 else 4) * row)

    def _update_seconds(self, table: TableSpec, rows: float, columns: int) -> float:
        """Of one optimizer step: rows and slot variables are read and written."""
        moved = _fetched(table.row_bytes(columns)) + _fetched(table.slot_bytes(columns))
        roots = table.slot_bytes(columns) // FLOAT_BYTES  # that are taken, and divided by
        return rows * (2 * moved * self._seconds_per_byte + roots * self._seconds_per_element)

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
