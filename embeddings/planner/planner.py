"""From tables and a cluster to a sharding plan and what it is expected to cost."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embeddings.planner.capacity import table_memory
from embeddings.planner.estimate import CostModel, ExchangeKind
from embeddings.planner.loads import Placement
from embeddings.planner.prediction import Prediction, predict
from embeddings.planner.propose import ProposerName, propose
from embeddings.planner.tables import TableSpec, Workload
from embeddings.planner.thresholds import DEFAULT_THRESHOLDS, Thresholds, choose_by_thresholds
from embeddings.planner.topology import ClusterTopology
from embeddings.planner.traffic import WireFormat
from embeddings.sharding import KINDS, Kind, Shard, ShardingPlan, TableSharding


@dataclass(frozen=True)
class Planned:
    """A plan, what it is for and what it is expected to cost. chosen_by: "thresholds" or a proposer's name. reasons: by
    table, of thresholds; empty where the cost model chose. table_memory: bytes of a rank that tables may take."""

    plan: ShardingPlan
    prediction: Prediction
    workload: Workload
    topology: ClusterTopology
    chosen_by: str
    wire: WireFormat
    exchange: ExchangeKind
    reasons: Mapping[str, str]
    table_memory: float

    def document(self) -> dict[str, Any]:
        """Plan and prediction as plain JSON types."""
        return {
            "topology": self.topology.name,
            "hosts": self.topology.hosts,
            "devices_per_host": self.topology.devices_per_host,
            "batch_size": self.workload.batch_size,
            "chosen_by": self.chosen_by,
            "wire": self.wire,
            "exchange": self.exchange,
            "plan": self.plan.document(),
            "reasons": dict(self.reasons),
            "prediction": self.prediction.document(),
        }


def plan_tables(
    workload: Workload,
    topology: ClusterTopology,
    proposer: ProposerName | None = None,
    kinds: Collection[Kind] = KINDS,
    wire: WireFormat = "float32",
    exchange: ExchangeKind = "distinct",
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Planned:
    """A sharding plan. proposer: of the cost model; None: thresholds choose. kinds: the sharding types that may be
    used. wire: how vectors and gradients travel. exchange: headrace's own, "distinct", or "pooled" (`estimate`). The
    same input gives the same plan.

    Raises:
      UserError: no plan fits; how much is missing, and what would fit.
    """
    costs = CostModel(workload, topology, wire, exchange)
    if proposer is None:
        placed, reasons = choose_by_thresholds(costs, thresholds, kinds)
    else:
        placed, reasons = propose(costs, proposer, kinds), {}
    return planned(costs, placed.placements, proposer or "thresholds", reasons)


def planned(
    costs: CostModel, placements: Mapping[str, Placement], chosen_by: str, reasons: Mapping[str, str]
) -> Planned:
    """The plan that these placements are."""
    tables = costs.workload.tables
    total = np.sum([costs.load(table, placements[table.name]) for table in tables], axis=0)
    plan = plan_of(costs.workload, placements, costs.topology.ranks)
    shards_of = Counter(shard.rank for shard in plan.shards)
    return Planned(
        plan,
        predict(costs, placements, shards_of, total),
        costs.workload,
        costs.topology,
        chosen_by,
        costs.wire,
        costs.exchange,
        reasons,
        table_memory(costs),
    )


def plan_of(workload: Workload, placements: Mapping[str, Placement], ranks: int) -> ShardingPlan:
    """The placements, told rank by rank."""
    shards = [shard for table in workload.tables for shard in _shards(table, placements[table.name])]
    return ShardingPlan(
        ranks,
        {table.name: _sharding(table, placements[table.name]) for table in workload.tables},
        tuple(sorted(shards, key=lambda shard: shard.rank)),
    )


def _sharding(table: TableSpec, placement: Placement) -> TableSharding:
    option = placement.option
    return TableSharding(table.name, option.kind, placement.ranks, option.columns, option.hot_rows)


def _shards(table: TableSpec, placement: Placement) -> list[Shard]:
    """What each rank holds of a table."""
    option, ranks = placement.option, placement.ranks

    def shard(rank: int, rows: int, columns: tuple[int, int], replicated: bool) -> Shard:
        size = table.bytes_of(rows, columns[1] - columns[0])
        return Shard(table.name, option.kind, rank, rows, columns, replicated, size)

    whole = (0, table.dim)
    if option.kind == "data_parallel":
        return [shard(rank, table.rows, whole, True) for rank in ranks]
    if option.kind == "column_wise":
        edges = [0, *itertools.accumulate(option.columns)]
        return [
            shard(rank, table.rows, part, False) for rank, part in zip(ranks, itertools.pairwise(edges), strict=True)
        ]
    hot = [shard(rank, option.hot_rows, whole, True) for rank in ranks] if option.hot_rows else []
    cold, over = divmod(table.rows - option.hot_rows, len(ranks))
    return hot + [shard(rank, cold + (place < over), whole, False) for place, rank in enumerate(ranks)]
