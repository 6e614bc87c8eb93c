"""input_dist and output_dist: a step's ids to the ranks that hold their rows, vectors back, gradients there again.

A step makes four exchanges however many tables there are: how much of each part goes from whom to whom, the ids, the
vectors, the gradients. A rank makes requests: an id, each once, or where that moves fewer bytes the ids of a bag that
one rank holds, whose rows are summed there. What it needs of a request, and what its batch has for it, is one vector
and one gradient. What is done between exchanges is one call of a kernel for all tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embeddings.error_feedback import ErrorFeedback
from embeddings.kernels import kernels
from embeddings.kernels.group import Bag, TableGroup, grouped
from embeddings.kernels.reference import step_rows
from embeddings.kernels.streams import AS_THEY_ARE, Numbering, Own, Owners, Stream
from embeddings.sharding.joint import Arrived, settled
from embeddings.sharding.sharded import Part, ShardedTable
from embeddings.tables.dynamic import DynamicTable
from embeddings.traffic import Traffic
from embeddings.wire import Wire
from foundation.tf import tf
from strategies import Communicator


@dataclass(frozen=True)
class _Asked:
    """A part of a table that was asked for: it travels as a stream."""

    table: ShardedTable
    part: Part
    number: int  # the part's, in the table
    stream: Stream


@dataclass(frozen=True, eq=False)
class Routed:
    """Where a step's ids went. tables: those that were asked for, by their places in the exchange. bags: those of the
    step, over places among their table's requests, tables being places among those asked for. counts: [tables] int64:
    how many requests there are. starts: [streams, ranks] int64: where among the table's requests those to a rank begin.
    id_sizes, sizes: [ranks, streams, ranks] int64: how many ids and requests of each stream went from whom to whom.
    rows: of each stream, the rows [n] int64 here of the ids that came; None: nothing is held. splits: of each stream
    whose requests are of several ids, [requests + 1] int64, where each one's rows begin.

    tf.nest sees its tensors: a loop carries it from one round to the next."""

    asked: list[_Asked]
    tables: list[int]
    bags: list[Bag]
    counts: tf.Tensor
    starts: tf.Tensor
    id_sizes: tf.Tensor
    sizes: tf.Tensor
    rows: list[tf.Tensor | None]
    splits: list[tf.Tensor | None]

    @property
    def streams(self) -> list[Stream]:
        return [each.stream for each in self.asked]

    def sent_by(self, rank: int) -> tf.Tensor:
        """[streams, ranks] int64: how many requests of each it sent to each."""
        return self.sizes[rank]

    def come_to(self, rank: int) -> tf.Tensor:
        """[streams, ranks] int64: how many requests of each came to it from each."""
        return tf.transpose(self.sizes[:, :, rank])

    def own(self, rank: int, stream: int, values: tf.Tensor) -> tf.Tensor:
        """Of a value for each request that came of a stream, those of the requests that the rank made itself."""
        came = self.come_to(rank)[stream]
        before = tf.reduce_sum(came[:rank])
        return values[before : before + came[rank]]

    def __tf_flatten__(self) -> tuple[Any, tuple[Any, ...]]:
        lists = [[(bag.ids, bag.splits, bag.weights) for bag in self.bags], self.rows, self.splits]
        bare = [replace(bag, ids=None, splits=None, weights=None) for bag in self.bags]
        return (self.asked, self.tables, bare), (self.counts, self.starts, self.id_sizes, self.sizes, lists)

    @classmethod
    def __tf_unflatten__(cls, metadata: Any, components: tuple[Any, ...]) -> Routed:
        (asked, tables, bare), (counts, starts, id_sizes, sizes, (of_bags, rows, splits)) = metadata, components
        bags = [
            replace(bag, ids=ids, splits=cuts, weights=weights)
            for bag, (ids, cuts, weights) in zip(bare, of_bags, strict=True)
        ]
        return cls(asked, tables, bags, counts, starts, id_sizes, sizes, list(rows), list(splits))


class Exchange:
    """Lookups and updates of tables that are spread over ranks. A bag's `table` is a place among `tables`. wire: None:
    float32."""

    def __init__(self, communicator: Communicator, tables: Sequence[ShardedTable], wire: Wire | None = None) -> None:
        self._communicator, self._tables, self._wire = communicator, list(tables), wire or Wire()
        self._owners = [_owners(table) for table in tables]
        self.traffic = Traffic(tables, communicator.rank, communicator.size, self._wire)
        self._feedback = ErrorFeedback(tables, self._wire.gradients) if self._wire.error_feedback else None
        self._unit = math.gcd(*(part.width for table in tables for part in table.parts))

    def input_dist(self, bags: list[Bag], inserts: bool) -> Routed:
        """Sends each id to who holds its row. inserts: new ids of dynamic tables get a row.

        Raises:
          tf.errors.InvalidArgumentError: an id is outside its vocabulary.
        """
        communicator = self._communicator
        tables = sorted({bag.table for bag in bags})
        asked = [
            _Asked(self._tables[table], part, number, Stream(place, part.columns[0], part.width))
            for place, table in enumerate(tables)
            for number, part in enumerate(self._tables[table].parts)
        ]
        counted = any(not self._tables[table].static for table in tables) and inserts
        asking = [replace(bag, table=tables.index(bag.table)) for bag in bags]
        pools = [_may_be_pooled(bag, self._tables[bag.table]) for bag in bags]
        requests = kernels().requests(
            [bag if may else replace(bag, splits=None, weights=None) for bag, may in zip(asking, pools, strict=True)],
            [self._owners[table] for table in tables],
            communicator.size,
            counted,
            [self._row_bytes(self._tables[table]) for table in tables],
        )
        over = [
            found if may else replace(bag, ids=found.ids)
            for bag, found, may in zip(asking, requests.bags, pools, strict=True)
        ]
        joining = {bag.table for bag, may in zip(asking, pools, strict=True) if may}
        id_starts, my_ids = self._cuts(asked, requests.id_splits)
        starts, mine = (id_starts, my_ids) if not joining else self._cuts(asked, requests.splits)
        told = tf.stack([my_ids, mine] if joining else [mine])
        everybody = communicator.all_gather(tf.reshape(told, [1, -1]))
        by_rank = tf.reshape(everybody, [communicator.size, -1, len(asked), communicator.size])
        id_sizes, sizes = by_rank[:, 0], by_rank[:, -1]
        if inserts:
            self.traffic.note(bags, id_sizes, sizes)
        width = 2 if counted else 1
        as_ids = [Stream(each.stream.table, 0, width) for each in asked]
        of_streams = [each.table for each in as_ids]
        payload = kernels().pack(requests.sent, of_streams, as_ids, id_starts, my_ids, width, tf.int64)
        received = communicator.all_to_all(payload, tf.reduce_sum(id_sizes, 1))
        here = tf.transpose(id_sizes[:, :, communicator.rank])
        numberings = [_numbering(each, each.stream.table in joining) for each in asked]
        came, counts, splits = kernels().arrived_ids(received, here, numberings)
        rows = [
            _rows(each, ids, count if counted else None, inserts)
            for each, ids, count in zip(asked, came, counts, strict=True)
        ]
        return Routed(asked, tables, over, requests.splits[:, -1], starts, id_sizes, sizes, rows, splits)

    def output_dist(self, routed: Routed, bags: list[Bag]) -> list[tf.Tensor]:
        """[B, dim] float32 of each bag: the rows' vectors brought back, weighted and combined.

        Raises:
          tf.errors.InvalidArgumentError: a weight is not finite, or splits do not rise from 0 to the number of ids.
        """
        communicator = self._communicator
        rank = communicator.rank
        looked_up = self._look_up(routed)
        copied = [each.part.replicated for each in routed.asked]
        local = {s: v if copied[s] else routed.own(rank, s, v) for s, v in enumerate(looked_up) if v is not None}
        # neither what each rank has a copy of travels, nor what a rank would send to itself
        travels = _column([not copy for copy in copied]) * _others(communicator.size)
        leaving = [s for s in local if not copied[s]]
        pieces = [looked_up[s] for s in leaving] or [tf.zeros([0, self._unit])]
        piece_of = [leaving.index(s) if s in leaving else -1 for s in range(len(looked_up))]
        payload = kernels().pack(
            pieces,
            piece_of,
            [replace(stream, first_column=0) for stream in routed.streams],
            tf.cumsum(routed.come_to(rank), axis=1, exclusive=True),
            routed.come_to(rank) * travels[rank],
            self._unit,
            tf.as_dtype(self._wire.vectors),
        )
        units = routed.sizes * travels * self._units(routed)
        received = communicator.all_to_all(payload, tf.transpose(tf.reduce_sum(units, 1)))
        mine, dims = routed.sent_by(rank) * travels[rank], self._dims(routed)
        return kernels().pool(received, local, rank, routed.streams, routed.starts, mine, dims, routed.bags)

    def update(self, routed: Routed, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        """One step of every table that was asked for: gradients [B, dim] of the outputs, summed by row over all
        ranks."""
        communicator, streams = self._communicator, routed.streams
        rank = communicator.rank
        sums = kernels().sums(routed.bags, gradients, routed.counts, self._dims(routed))
        if self._feedback is not None:
            sums = self._feedback.rounded(routed, rank, sums)
        piece_of = [stream.table for stream in streams]
        # a copy's own gradient travels too: on a narrow wire it is rounded as on the other ranks, which have the same
        stays = [not each.part.replicated for each in routed.asked]
        travels = 1 - _column(stays) * (1 - _others(communicator.size))
        wire = tf.as_dtype(self._wire.gradients)
        mine = routed.sent_by(rank) * travels[rank]
        payload = kernels().pack(sums, piece_of, streams, routed.starts, mine, self._unit, wire, stochastic=True)
        received = communicator.all_to_all(payload, tf.reduce_sum(routed.sizes * travels * self._units(routed), 1))
        of_own = [table if stay else -1 for table, stay in zip(piece_of, stays, strict=True)]
        own = Own(rank, sums, of_own, routed.starts[:, rank])
        here = [tf.zeros([0], tf.int64) if rows is None else rows for rows in routed.rows]
        distinct, pieces = kernels().merge(here, routed.splits, received, streams, routed.come_to(rank), own)
        counts = tf.unstack(tf.reduce_max(tf.reduce_sum(routed.id_sizes, 0), 1), len(streams))
        arrived = [
            Arrived(each.table, each.part, None if held is None else rows, piece, count)
            for each, held, rows, piece, count in zip(routed.asked, routed.rows, distinct, pieces, counts, strict=True)
        ]
        self._take_steps(settled(communicator, arrived))

    def _take_steps(self, arrived: list[Arrived]) -> None:
        here = [(a.part.held, a) for a in arrived if a.part.held is not None]
        at_once = {id(table): a for table, a in here if a.squares is None}
        for group in grouped([table for table, a in here if a.squares is None]):
            of_tables = [at_once[id(table)] for table in group.tables]
            asked = [_bag(group, place, a.rows) for place, a in enumerate(of_tables)]
            kernels().step(group, asked, [a.gradients for a in of_tables])
        for table, a in here:
            if a.squares is not None:
                step_rows(table, a.rows, a.gradients, mean_square=a.squares / a.table.config.dim)
            table.note_update(a.rows)

    def _dims(self, routed: Routed) -> list[int]:
        return [self._tables[table].config.dim for table in routed.tables]

    def _row_bytes(self, table: ShardedTable) -> int:
        """Of a vector and its gradient as they travel; where columns travel apart, of one range of them."""
        wire = tf.as_dtype(self._wire.vectors).size + tf.as_dtype(self._wire.gradients).size
        return table.config.dim * wire // (len(table.sharding.columns) or 1)

    def _units(self, routed: Routed) -> tf.Tensor:
        """[streams, 1] int64: of how many units a row of each is."""
        return _column([stream.width // self._unit for stream in routed.streams])

    def _cuts(self, asked: Sequence[_Asked], splits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[streams, ranks] int64 each: where among what is asked of the table that begins which goes to a rank, and how
        much it is. splits: [tables, ranks + 2], of ids or requests, as `Requests` has them."""
        ranks = self._communicator.size
        first = np.zeros((len(asked), ranks), np.int64)
        last = np.zeros_like(first)
        for s, each in enumerate(asked):
            if each.part.ids is not None:  # the common ones go to every rank
                first[s], last[s] = ranks, ranks + 1
            elif each.part.owners is None:
                last[s] = ranks
            elif each.table.sharding.columns:
                last[s, each.part.owners[0]] = ranks
            else:
                first[s], last[s] = np.arange(ranks), np.arange(ranks) + 1
            row = each.stream.table * (ranks + 2)
            first[s], last[s] = first[s] + row, last[s] + row
        flat = tf.reshape(splits, [-1])
        starts = tf.gather(flat, first)
        return starts, tf.gather(flat, last) - starts

    def _look_up(self, routed: Routed) -> list[tf.Tensor | None]:
        """Of each stream the vectors that answer its requests: those of all ranks, or of a replicated part this rank's
        alone."""
        found: dict[int, tf.Tensor] = {}
        tables = {}
        rank = self._communicator.rank
        for s, (each, rows) in enumerate(zip(routed.asked, routed.rows, strict=True)):
            if rows is None or each.part.held is None:
                continue
            if each.part.replicated:
                rows = routed.own(rank, s, rows)
            tables[id(each.part.held)] = (s, rows, each.part.held)
        for group in grouped([held for _, _, held in tables.values()]):
            chosen = [tables[id(table)] for table in group.tables]
            asked = [_bag(group, place, rows, routed.splits[s]) for place, (s, rows, _) in enumerate(chosen)]
            for table, vectors in zip(group.tables, kernels().lookup(group, asked), strict=True):
                found[tables[id(table)][0]] = vectors
        return [found.get(s) for s in range(len(routed.asked))]


def _owners(table: ShardedTable) -> Owners:
    """Who holds a table's ids. Where several ranks hold something of every id, all stand together, as if rank 0's."""
    owners = table.parts[0].owners
    by_owner = owners is not None and not table.sharding.columns
    common = np.zeros(0, np.int64) if table.hot_ids is None else table.hot_ids
    of_buckets = owners if by_owner and owners is not None else np.zeros(1, np.int64)
    return Owners(of_buckets, table.static, common, table.config.vocabulary_size)


def _may_be_pooled(bag: Bag, table: ShardedTable) -> bool:
    """Whether the bag's ids may be asked for together: they are marked on the wire, where any id of a dynamic table or
    a weight would have no room."""
    return bag.splits is not None and bag.weights is None and table.static and not table.parts[0].replicated


def _numbering(asked: _Asked, joins: bool) -> Numbering:
    """How the ids that come become rows; those of a dynamic table its id table numbers. joins: some of the table's may
    be asked for together."""
    if not asked.table.static:
        return AS_THEY_ARE
    return replace(asked.table.numbering(asked.number), joins=joins and not asked.part.replicated)


def _rows(asked: _Asked, ids: tf.Tensor, counts: tf.Tensor | None, inserts: bool) -> tf.Tensor | None:
    """The rows here of what came for a stream: of a dynamic table by its ids and how often each came."""
    held = asked.part.held
    if held is None or not isinstance(held, DynamicTable):
        return None if held is None else ids
    return held.find_or_insert([ids], [counts])[0] if inserts else held.find([ids])[0]


def _others(ranks: int) -> tf.Tensor:
    """[ranks, 1, ranks] int64: 1 from a rank to another, 0 to itself."""
    return tf.constant(1 - np.eye(ranks, dtype=np.int64)[:, np.newaxis])


def _column(values: Sequence[int]) -> tf.Tensor:
    """[n, 1] int64."""
    return tf.constant(np.array(values, np.int64)[:, np.newaxis])


def _bag(group: TableGroup, place: int, rows: tf.Tensor, splits: tf.Tensor | None = None) -> Bag:
    return Bag(group.tables[place].config.name, place, rows, splits, None, None if splits is None else "sum")
