"""The plan of a layer that was given none."""

from __future__ import annotations

from collections.abc import Iterable

from embeddings.config import TableConfig
from embeddings.sharding.plan import ShardingPlan, TableSharding

SMALL_ROWS = 4096  # a copy of so few costs less than asking for them


def default_plan(tables: Iterable[TableConfig], ranks: int) -> ShardingPlan:
    """Small tables on every rank, all others row-wise over all: what is right in most cases and can always be held.
    `headrace plan` weighs it against the alternatives."""
    everyone = tuple(range(ranks))
    chosen = {}
    for table in tables:
        small = table.vocabulary_size is not None and table.vocabulary_size <= SMALL_ROWS
        chosen[table.name] = TableSharding(table.name, "data_parallel" if small else "row_wise", everyone)
    return ShardingPlan(ranks, chosen)
