"""Placing options on ranks: the load so far, the room left, and where a table would go next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import BYTES, COMPONENTS, LAUNCH, MEMORY, WIRE, Placement
from embeddings.planner.tables import TableSpec

# The root mean square of the ranks' loads counts for so much beside the slowest rank: where several placements leave
# the slowest as it is, the one that costs less, better spread, is taken.
SPREAD_WEIGHT = 0.01
FEW_RANKS = 4  # up to so many, every set of ranks is tried for the parts of column_wise


class NoRoomError(Exception):
    """A table fits on no rank."""


class Partition:
    """Tables placed so far. room: bytes of a rank that tables may take."""

    def __init__(self, costs: CostModel, room: float) -> None:
        self.costs, self.room = costs, room
        self.total = np.zeros((COMPONENTS, costs.topology.ranks))
        self.placements: dict[str, Placement] = {}
        self._loads: dict[str, np.ndarray] = {}

    def copy(self) -> Partition:
        """One that can go its own way."""
        twin = Partition(self.costs, self.room)
        twin.total, twin.placements, twin._loads = self.total.copy(), dict(self.placements), dict(self._loads)
        return twin

    def add(self, table: TableSpec, placement: Placement, load: np.ndarray | None = None) -> None:
        """Places a table; load: what `costs.load` says of it, where that is known."""
        load = self.costs.load(table, placement) if load is None else load
        self.placements[table.name], self._loads[table.name] = placement, load
        self.total += load

    def remove(self, table: TableSpec) -> Placement:
        """Takes a table away again; returns where it was."""
        self.total -= self._loads.pop(table.name)
        return self.placements.pop(table.name)

    def load_of(self, table: TableSpec) -> np.ndarray:
        """[COMPONENTS, ranks]: what a placed table adds."""
        return self._loads[table.name]

    @property
    def fits(self) -> bool:
        """Whether no rank holds more than its room."""
        return bool(self.total[BYTES].max() <= self.room)

    @property
    def step_seconds(self) -> float:
        return self.costs.step_seconds(self.total)

    def score(self, total: np.ndarray | None = None) -> float:
        """Of the load, or of another one: the step's seconds, and a little of how the load is spread."""
        total = self.total if total is None else total
        work, wire = total[LAUNCH] + total[MEMORY], total[WIRE].max(axis=0)
        both = work + wire
        spread = math.sqrt(float(both @ both) / len(both))
        return self.costs.fixed_seconds + float(work.max() + wire.max()) + SPREAD_WEIGHT * spread

    def candidates(self, table: TableSpec, option: ShardingOption, most: int) -> list[Placement]:
        """Placements of an option on the least burdened ranks, at most so many of them. Room is looked at for whole
        tables only; `best` refuses what does not fit."""
        topology = self.costs.topology
        if option.kind in ("data_parallel", "row_wise", "hot_cold"):
            return [Placement(option, tuple(range(topology.ranks)))]
        burdens = burden(self.total)
        if option.kind == "table_row_wise":
            of_hosts = burdens.reshape(topology.hosts, -1).max(axis=1)
            return [Placement(option, topology.ranks_of(int(host))) for host in _smallest(of_hosts)[:most]]
        needed, parts = table.bytes_of(table.rows, max(option.columns, default=table.dim)), max(len(option.columns), 1)
        order = _smallest(burdens)
        order = order[self.total[BYTES, order] + needed <= self.room][: max(parts, most)].tolist()
        if parts == 1:
            return [Placement(option, (rank,)) for rank in order[:most]]
        if len(order) < parts:
            return []
        if topology.ranks <= FEW_RANKS:
            return [Placement(option, ranks) for ranks in itertools.combinations(sorted(order), parts)]
        return [Placement(option, tuple(sorted(order[:parts])))]

    def best(
        self, table: TableSpec, options: Sequence[ShardingOption], most: int
    ) -> tuple[float, Placement, np.ndarray] | None:
        """(score with it, placement, its load) of the best placement of a table under any of the options; of equal
        ones the first. None: it fits nowhere."""
        found: tuple[float, Placement, np.ndarray] | None = None
        for option in options:
            for placement in self.candidates(table, option, most):
                load = self.costs.load(table, placement)
                total = self.total + load
                if total[BYTES].max() > self.room:
                    continue
                score = self.score(total)
                if found is None or score < found[0] * (1 - 1e-12):
                    found = score, placement, load
        return found


def burden(total: np.ndarray) -> np.ndarray:
    """[ranks]: seconds that each rank works and exchanges."""
    return total[LAUNCH] + total[MEMORY] + total[WIRE].max(axis=0)


def partition(
    costs: CostModel,
    room: float,
    chosen: Mapping[str, ShardingOption],
    options: Mapping[str, Sequence[ShardingOption]],
    most: int,
) -> Partition:
    """Places every table under its chosen option, the heaviest first (LPT; Graham, SIAM J. Appl. Math. 1969); one that
    finds no room takes another of its `options`.

    Raises:
      NoRoomError: a table fits nowhere under any of them.
    """
    placed = Partition(costs, room)
    for table in _heaviest_first(costs, chosen):
        best = placed.best(table, [chosen[table.name]], most) or placed.best(table, options[table.name], most)
        if best is None:
            raise NoRoomError(table.name)
        placed.add(table, best[1], best[2])
    return placed


def _heaviest_first(costs: CostModel, chosen: Mapping[str, ShardingOption]) -> list[TableSpec]:
    """Tables that lie evenly over the ranks, then the others by what they cost one rank."""

    def weight(table: TableSpec) -> tuple[int, float, int, str]:
        option = chosen[table.name]
        load = costs.load(table, anywhere(option, costs.topology.ranks, costs.topology.devices_per_host))
        even = option.kind in ("data_parallel", "row_wise", "hot_cold")
        return (0 if even else 1, -float(burden(load).max()), -table.bytes_of(table.rows), table.name)

    return sorted(costs.workload.tables, key=weight)


def anywhere(option: ShardingOption, ranks: int, devices_per_host: int) -> Placement:
    """The option on the first ranks that it can be on."""
    count = {"table_wise": 1, "table_row_wise": devices_per_host, "column_wise": len(option.columns)}
    return Placement(option, tuple(range(count.get(option.kind, ranks))))


def _smallest(values: np.ndarray) -> np.ndarray:
    """Places of the values in rising order; of equal ones the first place first."""
    return np.argsort(values, kind="stable")
