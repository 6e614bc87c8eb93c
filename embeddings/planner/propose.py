"""Proposers: which option each table takes, to be placed and refined."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal, get_args

import numpy as np

from embeddings.planner.capacity import refusal, table_memory
from embeddings.planner.enumeration import ShardingOption, sharding_options
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import BYTES
from embeddings.planner.partition import NoRoomError, Partition, anywhere, burden, partition
from embeddings.planner.refine import Options, refine
from embeddings.sharding import KINDS, Kind

ProposerName = Literal["greedy", "dynamic"]
PROPOSERS: tuple[ProposerName, ...] = get_args(ProposerName)

MEMORY_STEPS = 256  # into which the dynamic programme cuts the cluster's memory
BUDGETS = (1.0, 0.7, 0.45, 0.25)  # shares of the memory that it is asked to make do with
REFINED = 2  # proposals, of those that were placed, that are refined; of many tables the best alone
MANY_TABLES = 200
MOST_RANKS_TRIED = 3  # for a whole table, the least burdened
FEW_RANKS = 4  # up to so many, all of them

Proposal = dict[str, ShardingOption]


def propose(costs: CostModel, proposer: ProposerName = "greedy", kinds: Collection[Kind] = KINDS) -> Partition:
    """The best plan found: the proposer's proposals are placed, the best of them refined. The same input gives the same
    plan.

    Raises:
      UserError: no plan fits; how much is missing, and what would fit.
    """
    room, tables = table_memory(costs), costs.workload.tables
    options = {table.name: sharding_options(table, costs.topology, kinds) for table in tables}
    if room <= 0 or any(not found for found in options.values()):
        raise refusal(costs, kinds)
    most = costs.topology.ranks if costs.topology.ranks <= FEW_RANKS else MOST_RANKS_TRIED
    placed = []
    for proposal in _PROPOSERS[proposer](costs, options, room):
        try:
            placed.append(partition(costs, room, proposal, options, most))
        except NoRoomError:
            continue
    if not placed:
        raise refusal(costs, kinds)
    placed.sort(key=lambda plan: plan.score())
    refined = placed[: REFINED if len(tables) < MANY_TABLES else 1]
    return min((refine(plan, options, most) for plan in refined), key=lambda plan: plan.step_seconds)


def _greedy(costs: CostModel, options: Options, room: float) -> Iterator[Proposal]:
    """Each table's cheapest option, were the load spread evenly; then the lightest in memory."""
    price = _prices(costs, options)
    yield {name: min(found, key=lambda option: price[name, option][0]) for name, found in options.items()}
    yield _lightest(price, options)
    yield from _of_one_kind(options)


def _dynamic(costs: CostModel, options: Options, room: float) -> Iterator[Proposal]:
    """The cheapest options together that stay within a share of the cluster's memory (a multiple-choice knapsack, by
    dynamic programming), for several shares; then the lightest in memory."""
    price = _prices(costs, options)
    for budget in BUDGETS:
        proposal = _knapsack(price, options, budget * room * costs.topology.ranks)
        if proposal is not None:
            yield proposal
    yield _lightest(price, options)
    yield from _of_one_kind(options)


Prices = Mapping[tuple[str, ShardingOption], tuple[float, float]]


def _prices(costs: CostModel, options: Options) -> dict[tuple[str, ShardingOption], tuple[float, float]]:
    """By table and option: (seconds of a step, averaged over ranks; bytes over all ranks)."""
    prices = {}
    ranks, local = costs.topology.ranks, costs.topology.devices_per_host
    for table in costs.workload.tables:
        for option in options[table.name]:
            load = costs.load(table, anywhere(option, ranks, local))
            prices[table.name, option] = (float(burden(load).mean()), float(load[BYTES].sum()))
    return prices


def _lightest(price: Prices, options: Options) -> Proposal:
    return {
        name: min(found, key=lambda option: (price[name, option][1], price[name, option][0]))
        for name, found in options.items()
    }


def _of_one_kind(options: Options) -> Iterator[Proposal]:
    """Every table under one kind, or under its first option where it has none of that kind."""
    for kind in ("table_wise", "row_wise", "data_parallel"):
        if any(option.kind == kind for found in options.values() for option in found):
            yield {
                name: next((option for option in found if option.kind == kind), found[0])
                for name, found in options.items()
            }


def _knapsack(price: Prices, options: Options, budget: float) -> Proposal | None:
    """One option a table, so that seconds are fewest and bytes at most `budget`, counted in MEMORY_STEPS steps of it,
    each option's rounded to the nearest. None: there is no such choice."""
    step = budget / MEMORY_STEPS
    cheapest = np.full(MEMORY_STEPS + 1, np.inf)  # by steps of memory taken
    cheapest[0] = 0.0
    taken: list[np.ndarray] = []  # by table: which option leads to each number of steps
    for name, found in options.items():
        after = np.full_like(cheapest, np.inf)
        choice = np.zeros(MEMORY_STEPS + 1, np.int64)
        for place, option in enumerate(found):
            seconds, size = price[name, option]
            steps = round(size / step)
            if steps > MEMORY_STEPS:
                continue
            reached = np.full_like(cheapest, np.inf)
            reached[steps:] = cheapest[: MEMORY_STEPS + 1 - steps] + seconds
            better = reached < after
            after[better], choice[better] = reached[better], place
        cheapest = after
        taken.append(choice)
    end = int(np.argmin(cheapest))
    if not np.isfinite(cheapest[end]):
        return None
    proposal: Proposal = {}
    for (name, found), choice in reversed(list(zip(options.items(), taken, strict=True))):
        option = found[int(choice[end])]
        proposal[name] = option
        end -= round(price[name, option][1] / step)
    return proposal


_PROPOSERS: Mapping[str, Callable[[CostModel, Options, float], Iterator[Proposal]]] = {
    "greedy": _greedy,
    "dynamic": _dynamic,
}
