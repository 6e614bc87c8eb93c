"""A plan as tables for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from embeddings.planner.planner import Planned
from embeddings.planner.prediction import RankPrediction
from embeddings.planner.units import SIZE, written
from embeddings.sharding import TableSharding

MOST_TABLES = 24
MOST_RANKS = 16


def print_plan(planned: Planned, console: Console, title: str = "sharding plan") -> None:
    """Prints tables, ranks, bytes by collective and the predicted step."""
    console.print(_tables(planned, title))
    console.print(_ranks(planned))
    if planned.topology.ranks > 1:
        console.print(_collectives(planned))
    for line in _summary(planned):
        console.print(line, highlight=False, soft_wrap=True)


def _tables(planned: Planned, title: str) -> Table:
    by_size = sorted(planned.workload.tables, key=lambda table: (-table.bytes_of(table.rows), table.name))
    table = Table(title=f"{title}, chosen by {planned.chosen_by}", title_justify="left")
    for heading in ("table", "rows", "dim", "bytes", "sharding", "ranks", *(["why"] if planned.reasons else [])):
        table.add_column(heading, justify="right" if heading in ("rows", "dim", "bytes") else "left")
    for spec in by_size[:MOST_TABLES]:
        sharding = planned.plan.tables[spec.name]
        size = written(spec.bytes_of(spec.rows), SIZE)
        cells = [spec.name, f"{spec.rows:,}", str(spec.dim), size, _kind(sharding), _ranges(sharding.ranks)]
        table.add_row(*cells, *([planned.reasons[spec.name]] if planned.reasons else []))
    left = by_size[MOST_TABLES:]
    if left:
        kinds = Counter(planned.plan.tables[spec.name].kind for spec in left)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        size = written(sum(spec.bytes_of(spec.rows) for spec in left), SIZE)
        table.add_row(f"{len(left)} smaller", "", "", size, told, *([""] * (2 if planned.reasons else 1)))
    return table


def _kind(sharding: TableSharding) -> str:
    if sharding.kind == "column_wise":
        return f"column_wise {'+'.join(map(str, sharding.columns))}"
    return f"hot_cold, {sharding.hot_rows:,} hot" if sharding.kind == "hot_cold" else sharding.kind


def _ranges(ranks: Iterable[int]) -> str:
    """Ranks with runs told by their ends: 0-7, 12."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _ranks(planned: Planned) -> Table:
    ranks = planned.prediction.ranks
    topology, room = planned.topology, written(planned.table_memory, SIZE)
    shown = list(ranks)
    title = (
        f"{topology.hosts} x {topology.devices_per_host} {topology.device} ({topology.name}), {room} each for tables"
    )
    if len(ranks) > MOST_RANKS:
        shown = sorted(ranks, key=lambda rank: (-_seconds(rank), rank.rank))[:MOST_RANKS]
        title += f"; the {MOST_RANKS} most burdened of {len(ranks)} ranks"
    headings = ("rank", "host", "shards", "memory", "of room", "compute ms", "memory ms", "wire ms", "sent a step")
    table = Table(*headings, title=title, title_justify="left")
    for column in table.columns:
        column.justify = "right"
    for rank in shown:
        table.add_row(
            str(rank.rank),
            str(topology.host_of(rank.rank)),
            str(rank.shards),
            written(rank.bytes, SIZE),
            f"{rank.bytes / planned.table_memory:.0%}",
            *(f"{1e3 * s:.3f}" for s in (rank.compute_seconds, rank.memory_seconds, rank.wire_seconds)),
            written(rank.bytes_sent, SIZE),
        )
    return table


def _seconds(rank: RankPrediction) -> float:
    return rank.compute_seconds + rank.memory_seconds + rank.wire_seconds


def _collectives(planned: Planned) -> Table:
    table = Table("collective", "bytes a step, all ranks", title=f"wire ({planned.wire})", title_justify="left")
    table.columns[1].justify = "right"
    for name, size in planned.prediction.bytes_sent.items():
        table.add_row(name, written(size, SIZE))
    return table


def _summary(planned: Planned) -> list[str]:
    found = planned.prediction
    parts = (found.step_seconds, found.compute_seconds, found.memory_seconds, found.wire_seconds)
    rate = planned.workload.batch_size / found.step_seconds
    held = [rank.bytes for rank in found.ranks]
    busy = [_seconds(rank) for rank in found.ranks]
    lines = [
        "predicted step: {:.3f} ms = compute {:.3f} + memory {:.3f} + wire {:.3f}".format(
            *(1e3 * seconds for seconds in parts)
        )
        + f"; {rate:,.0f} examples/s at a global batch of {planned.workload.batch_size:,}",
        f"distinct ids: {found.unique_ratio:.0%} of those looked up on a rank",
    ]
    if len(held) > 1:
        lines.append(
            f"imbalance (most over mean): memory {max(held) * len(held) / max(sum(held), 1):.2f}, "
            f"time {max(busy) * len(busy) / sum(busy):.2f}"
        )
    return lines
