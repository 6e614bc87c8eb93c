"""Local search: a plan made better table by table, and two tables at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.loads import BYTES
from embeddings.planner.partition import Partition, burden
from embeddings.planner.tables import TableSpec

Options = Mapping[str, Sequence[ShardingOption]]

GAIN = 1e-6  # relative: less is not worth another sweep
PLACEMENTS_TRIED = 40_000  # in all sweeps over the tables; a placement takes about 0.1 ms
MOST_SWEEPS = 12
FEW_TABLES = 12  # up to so many, pairs of tables are placed anew together
HEAVIEST, OTHERS = 4, 32  # tables of the most burdened rank that are exchanged, and those they are tried against
MOST_EXCHANGES = 64


def refine(placed: Partition, options: Options, most: int) -> Partition:
    """A plan at least as good, in the same place of memory. most: ranks tried for a table."""
    tables = placed.costs.workload.tables
    per_sweep = sum(len(options[table.name]) for table in tables) * most
    sweeps = max(min(PLACEMENTS_TRIED // max(per_sweep, 1), MOST_SWEEPS), 1)
    for _ in range(sweeps):
        before = placed.score()
        _sweep(placed, options, most)
        _exchange(placed)
        if len(tables) <= FEW_TABLES:
            _pairs(placed, options, most)
        if placed.score() > before * (1 - GAIN):
            break
    return placed


def _sweep(placed: Partition, options: Options, most: int) -> None:
    """Each table is taken away and put where it is best, the most burdening first."""
    order = sorted(
        placed.costs.workload.tables, key=lambda table: (-float(burden(placed.load_of(table)).max()), table.name)
    )
    for table in order:
        score, load = placed.score(), placed.load_of(table)
        before = placed.remove(table)
        best = placed.best(table, options[table.name], most)
        if best is not None and best[0] < score * (1 - 1e-12):
            placed.add(table, best[1], best[2])
        else:
            placed.add(table, before, load)


def _exchange(placed: Partition) -> None:
    """Whole tables of the most burdened rank change places with whole tables of others, while that helps."""
    whole = {
        table.name: table
        for table in placed.costs.workload.tables
        if placed.placements[table.name].option.kind == "table_wise"
    }
    if placed.costs.topology.ranks == 1:
        return
    for _ in range(min(len(whole), MOST_EXCHANGES)):
        worst = int(np.argmax(burden(placed.total)))
        here = [table for name, table in whole.items() if placed.placements[name].ranks == (worst,)]
        there = [table for name, table in whole.items() if placed.placements[name].ranks != (worst,)]

        def weight(table: TableSpec) -> tuple[float, str]:
            return (-float(burden(placed.load_of(table)).max()), table.name)

        here, there = sorted(here, key=weight)[:HEAVIEST], sorted(there, key=weight)
        there = there[:: max(len(there) // OTHERS, 1)]
        if not any(_exchanged(placed, one, other) for one in here for other in there):
            return


def _exchanged(placed: Partition, one: TableSpec, other: TableSpec) -> bool:
    """Whether two tables changed places, which they do if that is better."""
    costs = placed.costs
    at_one, at_other = placed.placements[one.name], placed.placements[other.name]
    moved = costs.load(one, at_other), costs.load(other, at_one)
    total = placed.total - placed.load_of(one) - placed.load_of(other) + moved[0] + moved[1]
    if total[BYTES].max() > placed.room or placed.score(total) >= placed.score() * (1 - GAIN):
        return False
    placed.remove(one)
    placed.remove(other)
    placed.add(one, at_other, moved[0])
    placed.add(other, at_one, moved[1])
    return True


def _pairs(placed: Partition, options: Options, most: int) -> None:
    """Two tables are taken away together, and every placement of the first is tried with the best of the second."""
    for first, second in itertools.permutations(placed.costs.workload.tables, 2):
        score = placed.score()
        loads = placed.load_of(first), placed.load_of(second)
        before = placed.remove(first), placed.remove(second)
        best = None
        for option in options[first.name]:
            for placement in placed.candidates(first, option, most):
                load = placed.costs.load(first, placement)
                placed.add(first, placement, load)
                found = placed.best(second, options[second.name], most) if placed.fits else None
                if found is not None and found[0] < score * (1 - 1e-12):
                    score, best = found[0], ((placement, load), (found[1], found[2]))
                placed.remove(first)
        chosen = best or ((before[0], loads[0]), (before[1], loads[1]))
        for table, (placement, load) in zip((first, second), chosen, strict=True):
            placed.add(table, placement, load)
