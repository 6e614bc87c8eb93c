"""The default plan: a few thresholds that a person can follow, and a reason for each table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from embeddings.planner.capacity import refusal, table_memory
from embeddings.planner.enumeration import ShardingOption, column_parts, sharding_options
from embeddings.planner.estimate import CostModel
from embeddings.planner.partition import NoRoomError, Partition, partition
from embeddings.planner.tables import TableSpec
from embeddings.planner.units import SIZE, written
from embeddings.sharding import KINDS, Kind


@dataclass(frozen=True)
class Thresholds:
    """small: bytes of a table, slot variables included, up to which every rank holds a copy. wide: columns from which
    a table is cut by columns, into parts half as wide or wider. huge: the share of a device's room for tables above
    which a table is cut by rows, within a host where its devices have room for it twice over."""

    small: float = 1e6
    wide: int = 256
    huge: float = 0.25


DEFAULT_THRESHOLDS = Thresholds()


def choose_by_thresholds(
    costs: CostModel, thresholds: Thresholds = DEFAULT_THRESHOLDS, kinds: Collection[Kind] = KINDS
) -> tuple[Partition, dict[str, str]]:
    """A plan, and by table why it is laid out so. Tables are placed on the least loaded ranks, the heaviest first.

    Raises:
      UserError: it does not fit; how much is missing, and what would fit.
    """
    room, topology = table_memory(costs), costs.topology
    if room <= 0:
        raise refusal(costs, kinds)
    allowed = {table.name: sharding_options(table, topology, kinds) for table in costs.workload.tables}
    if any(not options for options in allowed.values()):
        raise refusal(costs, kinds)
    chosen, reasons = {}, {}
    for table in costs.workload.tables:
        option, reason = _choice(table, costs, room, thresholds)
        if option not in allowed[table.name]:
            instead = _instead_of(option, allowed[table.name])
            option, reason = instead, f"{reason}; {option.kind} is not allowed, so {instead.kind}"
        chosen[table.name], reasons[table.name] = option, reason
    try:
        placed = partition(costs, room, chosen, allowed, most=1)
    except NoRoomError:
        raise refusal(costs, kinds) from None
    for name, placement in placed.placements.items():
        if placement.option != chosen[name]:
            reasons[name] = f"{reasons[name]}, but {chosen[name].kind} found no room"
    return placed, reasons


def _instead_of(option: ShardingOption, allowed: Sequence[ShardingOption]) -> ShardingOption:
    """Of the allowed options one that keeps a huge table in parts, and another whole, where that can be."""
    huge = option.kind in ("row_wise", "table_row_wise")
    order = ["row_wise", "table_row_wise", "column_wise", "hot_cold"]
    order = [*order, "table_wise", "data_parallel"] if huge else ["table_wise", *order, "data_parallel"]
    return min(allowed, key=lambda other: order.index(other.kind))


def _choice(table: TableSpec, costs: CostModel, room: float, rules: Thresholds) -> tuple[ShardingOption, str]:
    topology, size = costs.topology, table.bytes_of(table.rows)
    told = written(size, SIZE)
    if topology.ranks == 1:
        return ShardingOption("table_wise"), "one rank"
    if size <= rules.small:
        return ShardingOption("data_parallel"), f"small: {told} is at most {written(rules.small, SIZE)}"
    if size > rules.huge * room and table.rows >= topology.ranks:
        reason = f"huge: {told} is over {rules.huge:.0%} of a device's {written(room, SIZE)} for tables"
        within = topology.hosts > 1 and topology.devices_per_host > 1
        if within and 2 * size <= room * topology.devices_per_host:
            return ShardingOption("table_row_wise"), f"{reason}, and fits one host"
        return ShardingOption("row_wise"), reason
    parts = [part for part in column_parts(table.dim, topology.ranks) if min(part) >= rules.wide // 2]
    if table.dim >= rules.wide and parts:
        return ShardingOption("column_wise", columns=parts[-1]), f"wide: {table.dim} columns are {rules.wide} or more"
    return ShardingOption("table_wise"), f"medium: {told}, {table.dim} columns"
