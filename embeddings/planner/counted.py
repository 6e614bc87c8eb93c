"""What a training step does, counted in the code: ops started, by what serves the tables; searches; passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embeddings.planner.topology import KernelKind


@dataclass(frozen=True)
class OpCounts:
    """Ops that a training step starts: for each feature (checks, pooling, their gradients), the more where it has bags
    of ids, each feature whose outputs come pooled (split, joined, and back), each stream of the exchange (a part of a
    table on its way), each shard held (lookup, grouping, sums, optimizer, scatter), the more where other ranks ask for
    it, the more where its columns are coupled with others', each dense layer (product, bias, activation, their
    gradients, its optimizer), for the step itself (loss, its gradient), and for the exchange."""

    feature: int
    bag: int
    pooled_output: int
    stream: int
    shard: int
    asked: int
    coupled: int
    dense_layer: int
    step: int
    exchange: int


# The twin's were counted in embeddings/exchange.py and in the twin itself, without those that only rename; those over
# compiled kernels, of which a call serves all tables, in the graphs that are traced, without constants.
OPS: Mapping[KernelKind, OpCounts] = {
    "twin": OpCounts(12, 0, 4, 12, 25, 0, 0, 16, 60, 0),
    "compiled": OpCounts(6, 8, 4, 0, 3, 11, 56, 35, 44, 66),
}

# A level of a binary search is a branch that is mispredicted every other time: a sixth of what grouping an id costs.
# Each distinct id is searched for among the hot ones as it is counted, and as it is laid to its owner's.
LEVELS_PER_GROUPING, SEARCHES = 6, 2
# Times that a gradient is read or written where a row's columns are coupled, counted in sharding/joint.py and in
# `step_rows`, which is TensorFlow's ops whatever the kernels: squares, gathered rows, product, quotient, new rows.
COUPLED_PASSES = 14
