"""What the exchange moves: who sends how much to whom, within a host and between hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from embeddings.planner.topology import ClusterTopology

WireFormat = Literal["float32", "bfloat16", "float16"]
ID_BYTES = 8
COUNT_BYTES = 8


@dataclass(frozen=True)
class Sides:
    """An all-to-all in which every rank has the same amount for (or from) each owner: per rank, what it moves as an
    owner and what it moves as one that asks, within its host and between hosts. [ranks] float64 each."""

    owner_intra: np.ndarray
    owner_inter: np.ndarray
    asker_intra: np.ndarray
    asker_inter: np.ndarray

    @property
    def of_owners(self) -> np.ndarray:
        """[ranks]: what each moves as an owner."""
        return self.owner_intra + self.owner_inter

    @property
    def of_askers(self) -> np.ndarray:
        """[ranks]: what each moves as one that asks."""
        return self.asker_intra + self.asker_inter


def sides(owned: np.ndarray, topology: ClusterTopology) -> Sides:
    """owned: [ranks] what each other rank exchanges with that owner. A rank sends itself nothing."""
    local, ranks = topology.devices_per_host, topology.ranks
    on_host = np.repeat(owned.reshape(topology.hosts, local).sum(axis=1), local)
    return Sides(
        owner_intra=owned * (local - 1),
        owner_inter=owned * (ranks - local),
        asker_intra=on_host - owned,
        asker_inter=owned.sum() - on_host,
    )


def all_reduce_seconds(size: float, topology: ClusterTopology) -> float:
    """Of an all-reduce of so many bytes over a ring, twice round: each host's links are shared by its devices."""
    share = 2.0 * size / topology.ranks
    within = share * (topology.ranks - 1) / topology.intra_host.speed if topology.devices_per_host > 1 else 0.0
    between = share * (topology.hosts - 1) / topology.inter_host.speed
    return max(within, between)


def latency(topology: ClusterTopology) -> float:
    """Seconds of a collective over all ranks that moves almost nothing."""
    if topology.ranks == 1:
        return 0.0
    return topology.inter_host.latency if topology.hosts > 1 else topology.intra_host.latency
