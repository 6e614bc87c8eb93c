"""The ways in which a table can be laid over a cluster, before it is said on which ranks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from embeddings.planner.tables import TableSpec
from embeddings.planner.topology import ClusterTopology
from embeddings.sharding import KINDS, Kind

NARROWEST_PART = 16  # columns: 64 bytes, below which a row's part costs as much to fetch as a wider one
HOT_SHARES = (0.5, 0.8)  # of the lookups, that the replicated rows of hot_cold take


@dataclass(frozen=True)
class ShardingOption:
    """One way. columns: widths of the parts of column_wise. hot_rows: how many rows hot_cold copies to every rank."""

    kind: Kind
    columns: tuple[int, ...] = ()
    hot_rows: int = 0


def sharding_options(
    table: TableSpec, topology: ClusterTopology, kinds: Collection[Kind] = KINDS
) -> list[ShardingOption]:
    """The table's options in a fixed order; on one rank there is one. kinds: those that may be used."""
    ranks = topology.ranks
    if ranks == 1:
        return [ShardingOption("table_wise")]
    options = [ShardingOption(kind) for kind in ("data_parallel", "table_wise") if kind in kinds]
    if "row_wise" in kinds and table.rows >= ranks:
        options.append(ShardingOption("row_wise"))
    if "table_row_wise" in kinds and topology.hosts > 1 and 1 < topology.devices_per_host <= table.rows:
        options.append(ShardingOption("table_row_wise"))
    if "column_wise" in kinds:
        options += [ShardingOption("column_wise", columns=part) for part in column_parts(table.dim, ranks)]
    if "hot_cold" in kinds and table.zipf_alpha > 0:
        hot = {table.law.hottest_with(share) for share in HOT_SHARES}
        options += [ShardingOption("hot_cold", hot_rows=rows) for rows in sorted(hot) if ranks <= table.rows - rows]
    return options


def column_parts(dim: int, ranks: int) -> list[tuple[int, ...]]:
    """Widths of 2, 4, 8, ... nearly equal parts, at most one a rank, none narrower than 16 columns."""
    parts, count = [], 2
    while count <= ranks and dim // count >= NARROWEST_PART:
        parts.append(tuple(dim // count + (part < dim % count) for part in range(count)))
        count *= 2
    return parts
