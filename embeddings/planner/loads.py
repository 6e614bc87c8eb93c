"""Loads: what placed tables cost each rank, as arrays that add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.topology import ClusterTopology
from embeddings.planner.traffic import sides

# Rows of a load [COMPONENTS, ranks]: seconds of starting ops and of moving memory; seconds on the wire as an owner and
# as one that asks, within the host and between hosts; bytes held.
LAUNCH, MEMORY, OWNER_INTRA, OWNER_INTER, ASKER_INTRA, ASKER_INTER, BYTES = range(7)
COMPONENTS = 7
WIRE = slice(OWNER_INTRA, ASKER_INTER + 1)
FEW_OWNERS = 4  # up to so many are added one by one


@dataclass(frozen=True)
class Placement:
    """A sharding option on chosen ranks, in order; all of them for data_parallel and hot_cold."""

    option: ShardingOption
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """What one owner holds of a table: its bytes, the seconds of its ops and of its memory, how many bytes each other
    rank exchanges with it in a step, and the seconds in which owners of parts of a row tell each other what a step of
    the whole row needs."""

    bytes: int
    launch: float
    memory: float
    exchanged: float
    coupled: float = 0.0


@dataclass(frozen=True)
class OptionCost:
    """Of a table under an option. everywhere: [COMPONENTS], what it costs each rank, whoever owns it; where all own
    alike, that too. shares: of the owners, by the columns that one holds."""

    everywhere: np.ndarray
    shares: dict[int, Share]


def load_of(cost: OptionCost, placement: Placement, dim: int, topology: ClusterTopology) -> np.ndarray:
    """[COMPONENTS, ranks]: what the table so placed adds to each rank."""
    load = np.empty((COMPONENTS, topology.ranks))
    load[:] = cost.everywhere[:, np.newaxis]
    if not cost.shares:
        return load
    widths = placement.option.columns or (dim,) * len(placement.ranks)
    if len(placement.ranks) > FEW_OWNERS:
        _add_many(load, cost, placement.ranks, widths, topology)
        return load
    for rank, width in zip(placement.ranks, widths, strict=True):
        _add_one(load, cost.shares[width], rank, topology)
    return load


def _add_one(load: np.ndarray, share: Share, rank: int, topology: ClusterTopology) -> None:
    load[LAUNCH, rank] += share.launch
    load[MEMORY, rank] += share.memory
    load[BYTES, rank] += share.bytes
    load[OWNER_INTER if topology.hosts > 1 else OWNER_INTRA, rank] += share.coupled
    if not share.exchanged:
        return
    local = topology.devices_per_host
    host = slice(rank - rank % local, rank - rank % local + local)
    within, between = share.exchanged / topology.intra_host.speed, share.exchanged / topology.inter_host.speed
    load[OWNER_INTRA, rank] += within * (local - 1)
    load[OWNER_INTER, rank] += between * (topology.ranks - local)
    load[ASKER_INTRA, host] += within
    load[ASKER_INTRA, rank] -= within
    load[ASKER_INTER] += between
    load[ASKER_INTER, host] -= between


def _add_many(
    load: np.ndarray, cost: OptionCost, ranks: Sequence[int], widths: Sequence[int], topology: ClusterTopology
) -> None:
    places, exchanged = list(ranks), np.zeros(topology.ranks)
    for component, values in (
        (LAUNCH, [cost.shares[width].launch for width in widths]),
        (MEMORY, [cost.shares[width].memory for width in widths]),
        (BYTES, [cost.shares[width].bytes for width in widths]),
        (OWNER_INTER if topology.hosts > 1 else OWNER_INTRA, [cost.shares[width].coupled for width in widths]),
    ):
        load[component, places] += values
    exchanged[places] = [cost.shares[width].exchanged for width in widths]
    moving = sides(exchanged, topology)
    load[OWNER_INTRA] += moving.owner_intra / topology.intra_host.speed
    load[OWNER_INTER] += moving.owner_inter / topology.inter_host.speed
    load[ASKER_INTRA] += moving.asker_intra / topology.intra_host.speed
    load[ASKER_INTER] += moving.asker_inter / topology.inter_host.speed
