"""What a plan is expected to cost: time of a step, bytes sent, memory, rank by rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embeddings.planner.estimate import FLOAT_BYTES, CostModel, streams_of
from embeddings.planner.loads import BYTES, LAUNCH, MEMORY, WIRE, Placement
from embeddings.planner.tables import TableSpec
from embeddings.planner.traffic import COUNT_BYTES, ID_BYTES, sides


@dataclass(frozen=True)
class RankPrediction:
    """Of one rank. shards: parts of tables it holds; bytes: of them with their slot variables. Seconds of a step: its
    own work, and its own part of the exchange. bytes_sent: in a step, to other ranks."""

    rank: int
    shards: int
    bytes: int
    compute_seconds: float
    memory_seconds: float
    wire_seconds: float
    bytes_sent: int


@dataclass(frozen=True)
class Prediction:
    """Of a step. compute: dense layers and starting ops; memory: moving rows; wire: every collective. They are those of
    the slowest rank in each phase and sum to step_seconds. bytes_sent: by collective, over all ranks; what a rank
    keeps for itself is not sent. unique_ratio: distinct ids of a rank's part of the batch over all its ids."""

    step_seconds: float
    compute_seconds: float
    memory_seconds: float
    wire_seconds: float
    bytes_sent: Mapping[str, int]
    unique_ratio: float
    ranks: tuple[RankPrediction, ...]

    def document(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def predict(
    costs: CostModel, placements: Mapping[str, Placement], shards_of: Mapping[int, int], total: np.ndarray
) -> Prediction:
    """total: the load [COMPONENTS, ranks] of the placements; shards_of: how many parts each rank holds."""
    work = total[LAUNCH] + total[MEMORY]
    slowest = int(np.argmax(work))
    fixed_compute = costs.dense_seconds + costs.joining_seconds + costs.launch_seconds
    exchange = total[WIRE].max(axis=0)
    sent = _sent(costs, placements)
    ranks = tuple(
        RankPrediction(
            rank,
            shards_of.get(rank, 0),
            int(total[BYTES, rank]),
            fixed_compute + float(total[LAUNCH, rank]),
            float(total[MEMORY, rank]),
            costs.dense_wire_seconds + float(exchange[rank]),
            round(sum(float(bytes_of[rank]) for bytes_of in sent.values())),
        )
        for rank in range(costs.topology.ranks)
    )
    return Prediction(
        costs.step_seconds(total),
        fixed_compute + float(total[LAUNCH, slowest]),
        float(total[MEMORY, slowest]),
        costs.dense_wire_seconds + float(exchange.max()),
        {name: round(float(bytes_of.sum())) for name, bytes_of in sent.items()},
        _unique_ratio(costs),
        ranks,
    )


def _sent(costs: CostModel, placements: Mapping[str, Placement]) -> dict[str, np.ndarray]:
    """[ranks] bytes that each rank sends to others in a step, by collective."""
    topology, ranks = costs.topology, costs.topology.ranks
    ids, vectors = np.zeros(ranks), np.zeros(ranks)  # that each other rank exchanges with an owner
    replicated_ids = replicated_gradients = 0.0  # that a rank sends to each other
    squares = np.zeros(ranks)  # that a rank sends in all
    streams = 0
    for table in costs.workload.tables:
        placement = placements[table.name]
        hot, cold = costs.demands(table, placement.option.hot_rows)
        streams += streams_of(placement.option) if costs.exchange == "distinct" else 0
        if placement.option.kind in ("data_parallel", "hot_cold"):
            distinct = (cold if placement.option.kind == "data_parallel" else hot).distinct
            replicated_ids += distinct * ID_BYTES
            replicated_gradients += distinct * table.dim * costs.vector_bytes
        for rank, share, columns in _owners(table, placement):
            of_ids, of_vectors = costs.exchanged_bytes(table, placement.option, share, columns)
            squares[rank] += costs.coupled_bytes(table, cold, len(placement.option.columns) or 1)
            ids[rank] += of_ids
            vectors[rank] += of_vectors
    others = ranks - 1
    moving = sides(vectors, topology)
    dense = 2.0 * FLOAT_BYTES * costs.workload.dense.parameters * others / ranks
    return {
        "counts": np.full(ranks, float(COUNT_BYTES * streams * ranks * others)),
        "ids": sides(ids, topology).of_askers + replicated_ids * others,
        "vectors": moving.of_owners,
        "gradients": moving.of_askers + replicated_gradients * others,
        "squares of columns": squares,
        "dense all-reduce": np.full(ranks, dense),
    }


def _owners(table: TableSpec, placement: Placement) -> list[tuple[int, float, int]]:
    """(rank, share of the rows that are not replicated, columns) of each owner."""
    if placement.option.kind == "data_parallel":
        return []
    if placement.option.kind == "column_wise":
        return [(r, 1.0, width) for r, width in zip(placement.ranks, placement.option.columns, strict=True)]
    return [(rank, 1.0 / len(placement.ranks), table.dim) for rank in placement.ranks]


def _unique_ratio(costs: CostModel) -> float:
    demands = [costs.demands(table)[1] for table in costs.workload.tables]
    return sum(demand.distinct for demand in demands) / sum(demand.occurrences for demand in demands)
