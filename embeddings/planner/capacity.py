"""Whether tables fit the devices, and what to say when they do not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from embeddings.planner.estimate import FLOAT_BYTES, CostModel
from embeddings.planner.tables import TableSpec
from embeddings.planner.units import SIZE, written
from embeddings.sharding import Kind
from foundation.errors import UserError

RESERVED_SHARE = 0.1  # of a device's memory, for the runtime, its workspace and fragmentation
DENSE_COPIES = 4  # weights, gradients and two moments of the dense layers
ACTIVATION_COPIES = 4  # embeddings and their gradients, as they are exchanged and as they are pooled
SPLITTING: tuple[Kind, ...] = ("row_wise", "table_row_wise", "column_wise", "hot_cold")


def table_memory(costs: CostModel) -> float:
    """Bytes of a device that tables may take."""
    workload, topology = costs.workload, costs.topology
    examples = workload.batch_size / topology.ranks
    dense = DENSE_COPIES * FLOAT_BYTES * workload.dense.parameters
    activations = ACTIVATION_COPIES * FLOAT_BYTES * examples * workload.activation_width
    return topology.memory * (1.0 - RESERVED_SHARE) - dense - activations


def refusal(costs: CostModel, kinds: Collection[Kind]) -> UserError:
    """Why the tables do not fit, by how much, and what would."""
    topology, room = costs.topology, table_memory(costs)
    tables = costs.workload.tables
    where = f"{topology.ranks} x {topology.device} ({topology.name})"
    if room <= 0:
        return UserError(
            f"no plan: the dense layers and embeddings of {costs.workload.batch_size / topology.ranks:,.0f} examples "
            f"take {_told(topology.memory * (1 - RESERVED_SHARE) - room)} of a device's "
            f"{_told(topology.memory)} of memory, which leaves tables nothing ({where}).",
            "Lower batch_size, or take more devices (--hosts).",
        )
    total = float(sum(table.bytes_of(table.rows) for table in tables))
    largest = max(tables, key=lambda table: (table.bytes_of(table.rows), table.name))
    held = float(largest.bytes_of(largest.rows))
    if total > room * topology.ranks:
        short = total - room * topology.ranks
        return UserError(
            f"no plan: tables and slot variables take {_told(total)}, and {where} have {_told(room * topology.ranks)} "
            f"for them: {_told(short)} too little.",
            _what_would_fit(costs, total, room),
        )
    if held > room and not set(kinds) & set(SPLITTING):
        return UserError(
            f"no plan: table '{largest.name}' takes {_told(held)} with its slot variables, and a device has "
            f"{_told(room)} for tables: {_told(held - room)} too little ({where}).",
            "Allow a sharding type that splits it: --kinds row_wise, column_wise, table_row_wise or hot_cold.",
        )
    return UserError(
        f"no plan: tables take {_told(total)} of the {_told(room * topology.ranks)} that {where} have for them, but "
        f"under {', '.join(kinds)} some table finds no rank with room (the largest, '{largest.name}', takes "
        f"{_told(held)}; a device has {_told(room)}).",
        "Allow row_wise, which spreads a table over all ranks, or take more devices (--hosts).",
    )


def _what_would_fit(costs: CostModel, total: float, room: float) -> str:
    """The changes that would each be enough alone, else how much they bring together."""
    tables, topology = costs.workload.tables, costs.topology
    capacity = room * topology.ranks
    hosts = -(-total // (room * topology.devices_per_host))
    ways = [f"{hosts:,.0f} hosts like these would (--hosts {hosts:.0f})"]
    lighter: dict[str, Callable[[TableSpec], TableSpec]] = {
        "the optimizer RowWiseAdagrad for every table": lambda table: replace(table, optimizer="RowWiseAdagrad"),
        "rows in bfloat16 (precision: bfloat16)": lambda table: replace(table, precision="bfloat16"),
        "both RowWiseAdagrad and rows in bfloat16": lambda table: replace(
            table, optimizer="RowWiseAdagrad", precision="bfloat16"
        ),
    }
    for name, change in lighter.items():
        changed = sum(_lightest(table, change(table)) for table in tables)
        if changed <= capacity:
            ways.append(f"{name} would ({_told(changed)})")
    if len(ways) == 1:
        least = sum(_lightest(table, lighter["both RowWiseAdagrad and rows in bfloat16"](table)) for table in tables)
        ways.append(f"RowWiseAdagrad and bfloat16 rows alone would not ({_told(least)})")
    return "What would fit: " + "; ".join(ways) + "."


def _lightest(table: TableSpec, changed: TableSpec) -> float:
    """A table is not made heavier: SGD has no slots to save."""
    return float(min(table.bytes_of(table.rows), changed.bytes_of(changed.rows)))


def _told(size: float) -> str:
    return written(size, SIZE)
