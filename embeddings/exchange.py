"""input_dist and output_dist: a step's ids to the ranks that hold their rows, vectors back, gradients there again.

A step makes four exchanges however many tables there are: how many ids of each part go from whom to whom, the ids, the
vectors, the gradients. Each rank sends an id once: what it needs of a row, and what its batch has for it, is made of
one vector and one sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embeddings.kernels import kernels
from embeddings.kernels.group import Bag, TableGroup, grouped
from embeddings.kernels.reference import of_ids, step_rows
from embeddings.pooling import assert_finite, assert_inside, pooled
from embeddings.sharding.joint import Arrived, settled
from embeddings.sharding.order import by_rank, by_stream
from embeddings.sharding.sharded import Part, ShardedTable
from embeddings.tables.dynamic import DynamicTable
from foundation.tensors import ranges
from foundation.tf import tf
from strategies import Communicator

_Cuts = tuple[tf.Tensor, tf.Tensor]  # [ranks] int64 each: starts, sizes


@dataclass(frozen=True)
class _Stream:
    """A part of a table that was asked for, in the exchange."""

    table: int
    part: int


@dataclass(frozen=True, eq=False)
class Routed:
    """Where a step's ids went. Of each table that was asked for, by its place: `distinct` [u] int64, its ids once, and
    `places` of the bags' ids among them, bag by bag. sizes: [ranks, streams, ranks] int64: how many ids of each stream
    went from whom to whom. rows: of each stream, the rows [n] int64 here of the ids that came; None: nothing is
    held."""

    streams: list[_Stream]
    distinct: dict[int, tf.Tensor]
    places: list[tf.Tensor]
    starts: tf.Tensor  # [streams, ranks] int64: where among the table's distinct ids those for a rank begin
    sizes: tf.Tensor
    rows: list[tf.Tensor | None]


class Exchange:
    """Lookups and updates of tables that are spread over ranks. A bag's `table` is a place among `tables`."""

    def __init__(self, communicator: Communicator, tables: Sequence[ShardedTable]) -> None:
        self._communicator, self._tables = communicator, list(tables)
        self._unit = math.gcd(*(part.width for table in tables for part in table.parts))

    def input_dist(self, bags: list[Bag], inserts: bool) -> Routed:
        """Sends each id to who holds its row. inserts: new ids of dynamic tables get a row.

        Raises:
          tf.errors.InvalidArgumentError: an id is outside its vocabulary, or a weight is not finite.
        """
        communicator = self._communicator
        asked = sorted({bag.table for bag in bags})
        streams = [_Stream(table, part) for table in asked for part in range(len(self._tables[table].parts))]
        counted = any(not self._tables[table].static for table in asked) and inserts
        distinct, cuts, places, came = {}, {}, [None] * len(bags), {}
        with tf.control_dependencies(self._checks(bags)):
            for table in asked:
                of_table = [b for b, bag in enumerate(bags) if bag.table == table]
                ids = tf.concat([bags[b].ids for b in of_table], 0)
                distinct[table], cuts[table], all_places = self._unique(self._tables[table], ids)
                if counted:
                    count = tf.size(distinct[table], tf.int64)
                    came[table] = tf.math.unsorted_segment_sum(tf.ones_like(all_places), all_places, count)
                for b, own in zip(
                    of_table, tf.split(all_places, [tf.size(bags[b].ids) for b in of_table]), strict=True
                ):
                    places[b] = own
        starts, mine = (tf.stack(each) for each in zip(*(cuts[s.table][s.part] for s in streams), strict=True))
        sizes = tf.reshape(
            communicator.all_gather(tf.reshape(mine, [1, -1])), [communicator.size, len(streams), communicator.size]
        )
        before = tf.cumsum(tf.stack([tf.size(distinct[table], tf.int64) for table in asked]), exclusive=True)
        offsets = tf.stack([before[asked.index(stream.table)] for stream in streams])[:, tf.newaxis]
        order = ranges(tf.transpose(starts + offsets), tf.transpose(mine))
        payload = tf.concat([distinct[table] for table in asked], 0)
        if counted:
            payload = tf.stack([payload, tf.concat([came[table] for table in asked], 0)], axis=1)
        received = communicator.all_to_all(tf.gather(payload, order), tf.reduce_sum(sizes, 1))
        here = sizes[:, :, communicator.rank]
        pieces = tf.split(by_stream(received, here), tf.reduce_sum(here, 0), num=len(streams))
        rows = [self._rows(stream, piece, counted, inserts) for stream, piece in zip(streams, pieces, strict=True)]
        return Routed(streams, distinct, places, starts, sizes, rows)

    def output_dist(self, routed: Routed, bags: list[Bag]) -> list[tf.Tensor]:
        """[B, dim] float32 of each bag: the rows' vectors brought back, weighted and combined."""
        communicator = self._communicator
        here = routed.sizes[:, :, communicator.rank]
        looked_up = self._look_up(routed, here)
        streams = routed.streams
        travels = [not self._part(stream).replicated for stream in streams]
        units = self._units(streams, travels)
        payload = [
            self._in_units(vectors)
            for vectors, travelling in zip(looked_up, travels, strict=True)
            if travelling and vectors is not None
        ]
        payload = tf.concat([tf.zeros([0, self._unit]), *payload], 0)
        received = communicator.all_to_all(
            by_rank(payload, here * units), tf.transpose(tf.reduce_sum(routed.sizes * units[:, tf.newaxis], 1))
        )
        came = tf.transpose(routed.sizes[communicator.rank]) * units  # [owners, streams]
        pieces = tf.split(by_stream(received, came), tf.reduce_sum(came, 0), num=len(streams))
        parts: dict[int, list[tf.Tensor]] = {}
        for stream, vectors, piece, travelling in zip(streams, looked_up, pieces, travels, strict=True):
            vectors = tf.reshape(piece, [-1, self._part(stream).width]) if travelling else vectors
            parts.setdefault(stream.table, []).append(vectors)
        whole = {table: tf.concat(of_table, self._axis(table)) for table, of_table in parts.items()}
        return [
            pooled(tf.gather(whole[bag.table], places), bag) for bag, places in zip(bags, routed.places, strict=True)
        ]

    def update(self, routed: Routed, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        """One step of every table that was asked for: gradients [B, dim] of the outputs, summed by row over all
        ranks."""
        communicator = self._communicator
        sums = self._summed(routed, bags, gradients)
        streams = routed.streams
        units = self._units(streams, [True] * len(streams))
        payload, offset = [], tf.constant(0, tf.int64)
        offset_of: dict[tuple[int, tuple[int, int]], tf.Tensor] = {}
        for stream in streams:
            columns = self._part(stream).columns
            if (stream.table, columns) in offset_of:  # parts of rows are sent from the same sums
                continue
            payload.append(self._in_units(sums[stream.table][:, columns[0] : columns[1]]))
            offset_of[stream.table, columns] = offset
            offset += tf.shape(payload[-1], tf.int64)[0]
        offsets = tf.stack([offset_of[stream.table, self._part(stream).columns] for stream in streams])
        mine = routed.sizes[communicator.rank] * units[:, tf.newaxis]
        starts = routed.starts * units[:, tf.newaxis] + offsets[:, tf.newaxis]
        order = ranges(tf.transpose(starts), tf.transpose(mine))
        received = communicator.all_to_all(
            tf.gather(tf.concat(payload, 0), order), tf.reduce_sum(routed.sizes * units[:, tf.newaxis], 1)
        )
        here = routed.sizes[:, :, communicator.rank] * units
        pieces = tf.split(by_stream(received, here), tf.reduce_sum(here, 0), num=len(streams))
        counts = tf.unstack(tf.reduce_max(tf.reduce_sum(routed.sizes, 0), 1), len(streams))
        arrived = [
            Arrived(self._tables[stream.table], part, rows, tf.reshape(piece, [-1, part.width]), counts_of_stream)
            for stream, part, rows, piece, counts_of_stream in zip(
                streams, map(self._part, streams), routed.rows, pieces, counts, strict=True
            )
        ]
        self._take_steps(settled(communicator, arrived))

    def _take_steps(self, arrived: list[Arrived]) -> None:
        here = [(a.part.held, a) for a in arrived if a.part.held is not None]
        at_once = {id(table): a for table, a in here if a.squares is None}
        for group in grouped([table for table, a in here if a.squares is None]):
            of_tables = [at_once[id(table)] for table in group.tables]
            asked = [_bag(group, place, a.rows) for place, a in enumerate(of_tables)]
            kernels().update(group, asked, [a.gradients for a in of_tables])
        for table, a in here:
            if a.squares is not None:
                step_rows(table, a.rows, a.gradients, mean_square=a.squares / a.table.config.dim)

    def _axis(self, table: int) -> int:
        """Whether a table's parts are columns, 1, or rows, 0."""
        return 1 if self._tables[table].sharding.columns else 0

    def _part(self, stream: _Stream) -> Part:
        return self._tables[stream.table].parts[stream.part]

    def _units(self, streams: list[_Stream], travels: list[bool]) -> tf.Tensor:
        """[streams] int64: of how many units a row of each is; 0 of one that does not travel."""
        widths = [
            self._part(stream).width // self._unit if travelling else 0
            for stream, travelling in zip(streams, travels, strict=True)
        ]
        return tf.constant(widths, tf.int64)

    def _in_units(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.reshape(vectors, [-1, self._unit])

    def _unique(self, table: ShardedTable, ids: tf.Tensor) -> tuple[tf.Tensor, list[_Cuts], tf.Tensor]:
        """(distinct ids [u]; for each part where among them each rank's begin, and how many they are; places of `ids`
        among them). Ids that one rank owns stand together, those that all hold last."""
        ranks, owners = self._communicator.size, table.parts[0].owners
        by_owner = owners is not None and not table.sharding.columns
        given = tf.constant(owners if by_owner else [0], tf.int64)  # else all stand together, as if rank 0's
        distinct, splits, places = kernels().unique_by_owner(ids, given, ranks, table.static)
        nowhere = tf.zeros([ranks], tf.int64)
        if table.hot_ids is not None:
            hot = _among(distinct, table.hot_ids)
            cold_before = tf.concat([[0], tf.cumsum(tf.cast(tf.logical_not(hot), tf.int64))], 0)
            cold = cold_before[-1]
            moved = tf.where(hot, cold + tf.range(tf.size(hot, tf.int64)) - cold_before[:-1], cold_before[:-1])
            distinct = tf.concat([tf.boolean_mask(distinct, tf.logical_not(hot)), tf.boolean_mask(distinct, hot)], 0)
            splits, places = tf.gather(cold_before, splits), tf.gather(moved, places)
            to_all = (nowhere + cold, nowhere + tf.size(distinct, tf.int64) - cold)
            return distinct, [(splits[:-1], splits[1:] - splits[:-1]), to_all], places
        if by_owner:
            return distinct, [(splits[:-1], splits[1:] - splits[:-1])], places
        holders = [range(ranks) if part.owners is None else [int(part.owners[0])] for part in table.parts]
        cuts = [
            (nowhere, tf.reduce_sum(tf.one_hot(list(held_by), ranks, dtype=tf.int64), 0) * splits[-1])
            for held_by in holders
        ]
        return distinct, cuts, places

    def _rows(self, stream: _Stream, received: tf.Tensor, counted: bool, inserts: bool) -> tf.Tensor | None:
        """The rows here of the ids that came for a stream, with how often each came if they are counted."""
        table, held = self._tables[stream.table], self._part(stream).held
        if held is None:
            return None
        ids, came = (received[:, 0], received[:, 1]) if counted else (received, None)
        if not isinstance(held, DynamicTable):
            return table.rows_of(stream.part, ids)
        return held.find_or_insert([ids], [came])[0] if inserts else held.find([ids])[0]

    def _look_up(self, routed: Routed, here: tf.Tensor) -> list[tf.Tensor | None]:
        """Of each stream the vectors of the rows that were asked for: those of all ranks, or of a replicated part this
        rank's alone."""
        found: dict[int, tf.Tensor] = {}
        tables = {}
        for s, (stream, rows) in enumerate(zip(routed.streams, routed.rows, strict=True)):
            part = self._part(stream)
            if rows is None or part.held is None:
                continue
            if part.replicated:
                own = here[:, s]
                first = tf.reduce_sum(own[: self._communicator.rank])
                rows = rows[first : first + own[self._communicator.rank]]
            tables[id(part.held)] = (s, rows, part.held)
        for group in grouped([held for _, _, held in tables.values()]):
            asked = [_bag(group, place, tables[id(table)][1]) for place, table in enumerate(group.tables)]
            for table, vectors in zip(group.tables, kernels().lookup(group, asked), strict=True):
                found[tables[id(table)][0]] = vectors
        return [found.get(s) for s in range(len(routed.streams))]

    def _summed(self, routed: Routed, bags: list[Bag], gradients: list[tf.Tensor]) -> dict[int, tf.Tensor]:
        """Of each table [u, dim]: the gradient of each of its distinct ids, summed over this rank's bags."""
        parts: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {}
        for bag, places, gradient in zip(bags, routed.places, gradients, strict=True):
            parts.setdefault(bag.table, []).append((places, of_ids(tf.convert_to_tensor(gradient), bag)))
        sums = {}
        for table, pieces in parts.items():
            places, flat = (tf.concat(values, 0) for values in zip(*pieces, strict=True))
            sums[table] = tf.math.unsorted_segment_sum(flat, places, tf.size(routed.distinct[table]))
        return sums

    def _checks(self, bags: list[Bag]) -> list[tf.Operation]:
        checks = []
        for bag in bags:
            size = self._tables[bag.table].config.vocabulary_size
            if size is not None:
                checks.append(assert_inside(bag.name, bag.ids, size))
            if bag.weights is not None:
                checks.append(assert_finite(bag))
        return [check for check in checks if check is not None]


def _bag(group: TableGroup, place: int, rows: tf.Tensor) -> Bag:
    return Bag(group.tables[place].config.name, place, rows, None, None, None)


def _among(ids: tf.Tensor, known: np.ndarray) -> tf.Tensor:
    """[n] bool: which of `ids` are among the known ones, which rise."""
    place = tf.minimum(tf.searchsorted(tf.constant(known), ids), len(known) - 1)
    return tf.equal(tf.gather(tf.constant(known), place), ids)
