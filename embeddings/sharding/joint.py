"""What of a step must be known of a whole table, though ranks hold only parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from embeddings.kernels import kernels
from embeddings.kernels.streams import Stream
from embeddings.optimizers import RowWiseAdagrad
from embeddings.sharding.sharded import Part, ShardedTable
from foundation.tf import tf
from strategies import Communicator


@dataclass(frozen=True, eq=False)
class Arrived:
    """Gradients [u, width] float32 that came to a part here, summed, of distinct rows [u] int64. squares: [u] of each
    row the sum of its whole gradient's squares, where the optimizer asks for it and the part does not hold all columns.
    rows None: this rank holds nothing of the part."""

    table: ShardedTable
    part: Part
    rows: tf.Tensor | None
    gradients: tf.Tensor
    count: tf.Tensor  # [] int64: how many came before they were summed, or to each holder; all ranks know it
    squares: tf.Tensor | None = None


def clips(table: ShardedTable, part: Part) -> bool:
    """Whether the norm of the table's gradient is known only to all ranks together."""
    return table.config.optimizer.clipnorm is not None and not part.replicated


def shares_row_0(table: ShardedTable, part: Part) -> bool:
    """Whether several ranks hold the row that ids without one share, and it may learn."""
    may_reject = table.config.admission is not None or table.config.capacity is not None
    several = len(table.sharding.ranks) > 1 and not table.sharding.columns
    return not table.static and not part.replicated and several and may_reject


def couples_columns(table: ShardedTable) -> bool:
    """Whether what a step does to a column depends on the row's others, which other ranks hold."""
    return len(table.sharding.columns) > 1 and isinstance(table.config.optimizer, RowWiseAdagrad)


def settled(communicator: Communicator, arrived: Sequence[Arrived]) -> list[Arrived]:
    """The same with gradients clipped by norm, and the shared row's brought together, where that takes more ranks than
    one; the others as they are. At most two exchanges, and none where nothing asks for one."""
    alone = [not (clips(a.table, a.part) or shares_row_0(a.table, a.part) or couples_columns(a.table)) for a in arrived]
    if all(alone):
        return list(arrived)
    told = [tf.zeros([0]) if single else _tells(a) for a, single in zip(arrived, alone, strict=True)]
    sizes = [tf.size(each) for each in told]
    totals = tf.split(communicator.all_reduce(tf.concat(told, 0)), sizes)
    scaled = [a if single else _clipped(a, total) for a, single, total in zip(arrived, alone, totals, strict=True)]
    return _with_squares(communicator, scaled)


def _tells(arrived: Arrived) -> tf.Tensor:
    """[1 + width + 1]: the squares of all rows but the shared one, that one's sum, and whether there is one."""
    if arrived.rows is None:
        return tf.zeros([arrived.part.width + 2])
    shared = _is_shared(arrived)
    own = tf.where(shared, 0.0, 1.0)
    squares = tf.reduce_sum(tf.square(arrived.gradients) * own[:, tf.newaxis])
    sum_of_shared = tf.reduce_sum(arrived.gradients * (1.0 - own)[:, tf.newaxis], 0)
    return tf.concat([[squares], sum_of_shared, [tf.reduce_sum(1.0 - own)]], 0)


def _is_shared(arrived: Arrived) -> tf.Tensor:
    if shares_row_0(arrived.table, arrived.part):
        return tf.equal(arrived.rows, 0)
    return tf.zeros_like(arrived.rows, tf.bool)


def _clipped(arrived: Arrived, total: tf.Tensor) -> Arrived:
    """With the shared row's whole gradient, and the norm clipped. total: the sum of what all ranks told."""
    if arrived.rows is None:
        return arrived
    squares, of_shared, came = total[0], total[1:-1], total[-1]
    rows, gradients = arrived.rows, arrived.gradients
    if shares_row_0(arrived.table, arrived.part):
        own = tf.not_equal(rows, 0)
        some = tf.cast(came > 0, tf.int64)[tf.newaxis]
        rows = tf.concat([tf.boolean_mask(rows, own), tf.repeat(tf.zeros([1], tf.int64), some)], 0)
        shared = tf.repeat(of_shared[tf.newaxis], some, axis=0)
        gradients = tf.concat([tf.boolean_mask(gradients, own), shared], 0)
        squares += tf.reduce_sum(tf.square(of_shared))
    if clips(arrived.table, arrived.part):
        norm, most = tf.sqrt(squares), arrived.table.config.optimizer.clipnorm
        gradients *= tf.where(norm <= most, 1.0, most / norm)
    if couples_columns(arrived.table) and (clip := arrived.table.config.optimizer.clipvalue) is not None:
        gradients = tf.clip_by_value(gradients, -clip, clip)  # before it is squared
    return replace(arrived, rows=rows, gradients=gradients)


def _with_squares(communicator: Communicator, arrived: list[Arrived]) -> list[Arrived]:
    """Holders of columns of one table have the same rows in the same order: they tell each other their squares. The
    vectors are as long as what arrived, which all ranks know, though there are fewer rows."""
    by_table: dict[int, list[int]] = {}
    for place, a in enumerate(arrived):
        if couples_columns(a.table):
            by_table.setdefault(id(a.table), []).append(place)
    if not by_table:
        return arrived
    streams = [arrived[places[0]] for places in by_table.values()]
    here = [next((place for place in places if arrived[place].rows is not None), None) for places in by_table.values()]
    holds = np.zeros((communicator.size, len(streams)), np.int64)
    for stream, a in enumerate(streams):
        holds[list(a.table.sharding.ranks), stream] = 1
    counts = tf.stack([a.count for a in streams])
    lengths = holds * counts  # [ranks, streams]: of what a holder tells each holder
    own = [tf.zeros([0, 1]) if place is None else _padded(arrived[place]) for place in here]
    mine = tf.transpose(holds[communicator.rank] * lengths)  # [streams, ranks]
    numbers = [Stream(place, 0, 1) for place in range(len(streams))]
    payload = kernels().pack(own, range(len(own)), numbers, tf.zeros_like(mine), mine, 1, tf.float32)
    sizes = tf.reduce_sum(holds[:, np.newaxis] * lengths[tf.newaxis], 2)
    pieces = kernels().unpack(communicator.all_to_all(payload, sizes), numbers, mine)
    results = list(arrived)
    for a, own_place, piece in zip(streams, here, pieces, strict=True):
        if own_place is not None:
            whole = tf.reduce_sum(tf.reshape(piece, [len(a.table.sharding.ranks), -1]), 0)
            results[own_place] = replace(arrived[own_place], squares=whole[: tf.size(arrived[own_place].rows)])
    return results


def _padded(arrived: Arrived) -> tf.Tensor:
    """[count, 1] float32: the squares of each row's columns here, zeros behind them."""
    squares = tf.reduce_sum(tf.square(arrived.gradients), 1, keepdims=True)
    return tf.pad(squares, [[0, arrived.count - tf.shape(squares, tf.int64)[0]], [0, 0]])
