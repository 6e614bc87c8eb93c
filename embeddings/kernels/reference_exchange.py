"""The twin of an exchange's kernels: ids to their owners, rows between streams and ranks, vectors to bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from embeddings.kernels.group import Bag
from embeddings.kernels.streams import JOINS, Numbering, Own, Stream
from embeddings.pooling import checks_of, checks_of_splits, norms, pooled, rows_of_ids
from embeddings.precision import rounded
from foundation.tensors import ranges
from foundation.tf import tf


def pack(
    pieces: Sequence[tf.Tensor],
    piece_of: Sequence[int],
    streams: Sequence[Stream],
    starts: tf.Tensor,
    sizes: tf.Tensor,
    unit: int,
    wire: tf.DType,
    stochastic: bool = False,
) -> tf.Tensor:
    """[n, unit] of dtype `wire`: what is sent, rank by rank, within a rank stream by stream. Of stream s to rank r the
    `sizes[s, r]` rows from `starts[s, r]` on ([streams, ranks] int64 each) of `pieces[piece_of[s]]` [rows, columns],
    its columns of them. piece_of -1: there are no rows. Widths are multiples of `unit`. pieces: one at least. 16 bits
    are rounded to the nearest, or with `stochastic` up or down by a hash of where in its piece a number is, the same
    for whoever is sent it, and of the bits of all that is sent.

    Raises:
      tf.errors.InvalidArgumentError: a piece has no such rows or columns.
    """
    flat, offsets, offset = [], [], tf.constant(0, tf.int64)
    offset_of: dict[tuple[int, int, int], tf.Tensor] = {}
    checks = []
    for number, (stream, piece) in enumerate(zip(streams, piece_of, strict=True)):
        rows = tf.zeros([0, stream.width], pieces[0].dtype) if piece < 0 else pieces[piece]
        columns = (stream.first_column, stream.first_column + stream.width)
        inside = tf.reduce_all((starts[number] + sizes[number] <= tf.shape(rows, tf.int64)[0]) | (sizes[number] == 0))
        inside &= tf.shape(rows)[1] >= columns[1]
        checks.append(tf.debugging.Assert(inside, [f"stream {number}: no such rows of", tf.shape(rows), starts, sizes]))
        of_piece = (piece, *columns)
        if of_piece not in offset_of:  # parts of rows are sent from the same piece
            flat.append(tf.reshape(rows[:, columns[0] : columns[1]], [-1, unit]))
            offset_of[of_piece] = offset
            offset += tf.shape(flat[-1], tf.int64)[0]
        offsets.append(offset_of[of_piece])
    units = _units(streams, unit)
    places = ranges(tf.transpose(starts * units + tf.stack(offsets)[:, tf.newaxis]), tf.transpose(sizes * units))
    with tf.control_dependencies([check for check in checks if check is not None]):
        sent = tf.gather(tf.concat(flat, 0), places)
    if not stochastic or wire not in (tf.bfloat16, tf.float16):
        return tf.cast(sent, wire)
    bits = tf.bitcast(sent, tf.uint32)
    of_all = tf.reduce_sum(tf.cast(bits, tf.int64))
    keys = [(max(piece, 0) << 32) + column for piece, column, _ in offset_of]
    stored = [
        rounded(rows, wire, key, tf.range(tf.shape(rows, tf.int64)[0]), of_all, 0)
        for rows, key in zip(flat, keys, strict=True)
    ]
    return tf.gather(tf.concat(stored, 0), places)


def unpack(received: tf.Tensor, streams: Sequence[Stream], sizes: tf.Tensor) -> list[tf.Tensor]:
    """Of each stream its rows from all ranks, [sum(sizes[s]), width], float32 where the wire has floats. received: [n,
    unit] as packed; sizes: [streams, ranks] int64: how many rows came of each from whom.

    Raises:
      tf.errors.InvalidArgumentError: sizes do not cover what was received.
    """
    widths = sizes * _units(streams, received.shape[1])
    of_streams = tf.split(_by_stream(received, widths), tf.reduce_sum(widths, 1), num=len(streams))
    plain = tf.float32 if received.dtype.is_floating else received.dtype
    return [
        tf.cast(tf.reshape(piece, [-1, stream.width]), plain) for piece, stream in zip(of_streams, streams, strict=True)
    ]


def merge(
    rows: Sequence[tf.Tensor],
    splits: Sequence[tf.Tensor | None],
    received: tf.Tensor,
    streams: Sequence[Stream],
    sizes: tf.Tensor,
    own: Own,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """What came for each stream, summed by row: its distinct rows [u] int64, in an order that `rows` alone decides, and
    their sums [u, width] float32, in the order of ranks. rows: [n] int64 of each stream, whose gradients these are, in
    the order of ranks; splits: [gradients + 1] int64, where the rows of each gradient begin and the last one's end, or
    None: it is of one row. received: [n, unit] as packed; sizes: [streams, ranks] int64: how many gradients of each are
    whose; own: what of it did not travel.

    Raises:
      tf.errors.InvalidArgumentError: sizes do not cover what was received or the rows, or `own` has no such rows.
    """
    travelled = (
        np.array([[own.piece_of[s] < 0] for s in range(len(streams))]) | ~np.eye(sizes.shape[1], dtype=bool)[own.rank]
    )
    pieces = unpack(received, streams, sizes * tf.constant(travelled, tf.int64))
    distinct, sums = [], []
    for s, (stream, piece) in enumerate(zip(streams, pieces, strict=True)):
        if own.piece_of[s] >= 0:
            piece = _inserted(piece, _own_rows(own, s, stream, sizes), tf.reduce_sum(sizes[s, : own.rank]))
        of_stream, checks = splits[s], []
        if of_stream is not None:
            checks = [_covers(s, of_stream, rows[s]), _as_many(s, tf.size(of_stream) - 1, piece)]
            with tf.control_dependencies([check for check in checks if check is not None]):
                piece = tf.gather(piece, rows_of_ids(of_stream))
        found, places = tf.unique(rows[s], out_idx=tf.int64)
        told = _as_many(s, tf.size(rows[s]), piece)
        with tf.control_dependencies([] if told is None else [told]):
            sums.append(tf.math.unsorted_segment_sum(piece, places, tf.size(found)))
        distinct.append(found)
    return distinct, sums


def _covers(s: int, splits: tf.Tensor, rows: tf.Tensor) -> tf.Operation | None:
    good = tf.equal(splits[0], 0) & tf.equal(splits[-1], tf.size(rows, tf.int64))
    good &= tf.reduce_all(splits[1:] >= splits[:-1])
    return tf.debugging.Assert(good, [f"stream {s}: splits must rise from 0 to the number of rows", splits])


def _as_many(s: int, rows: tf.Tensor, gradients: tf.Tensor) -> tf.Operation | None:
    return tf.debugging.Assert(tf.equal(rows, tf.shape(gradients)[0]), [f"stream {s}: rows and gradients"])


def _own_rows(own: Own, s: int, stream: Stream, sizes: tf.Tensor) -> tf.Tensor:
    first, count = own.starts[s], sizes[s, own.rank]
    rows = own.pieces[own.piece_of[s]][:, stream.first_column : stream.first_column + stream.width]
    inside = (first >= 0) & (first + count <= tf.shape(rows, tf.int64)[0])
    check = tf.debugging.Assert(inside, [f"stream {s}: the own piece has no such rows", first, count])
    with tf.control_dependencies([] if check is None else [check]):
        return rows[first : first + count]


def _inserted(rows: tf.Tensor, others: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    return tf.concat([rows[:at], others, rows[at:]], 0)


def arrived_ids(
    received: tf.Tensor, sizes: tf.Tensor, numberings: Sequence[Numbering]
) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor | None]]:
    """The ids that came, [n, 1] or [n, 2] as `Requests` has them, stream by stream: as numbers of rows [n_s] int64; how
    often each came [n_s], if that is told, else nothing [0]; and of those that join ids, where each request's begin and
    the last one's end, [requests + 1] int64. sizes: [streams, ranks] int64, of ids.

    Raises:
      tf.errors.InvalidArgumentError: sizes do not cover what was received, or a rank does not hold an id.
    """
    of_streams = tf.split(_by_stream(received, sizes), tf.reduce_sum(sizes, 1), num=len(numberings))
    rows, splits = [], []
    for numbering, piece in zip(numberings, of_streams, strict=True):
        ids, begins = piece[:, 0], None
        if numbering.joins:
            first = tf.equal(tf.bitwise.bitwise_and(ids, JOINS), 0)
            begins = tf.concat([tf.where(first)[:, 0], [tf.size(ids, tf.int64)]], 0)
            ids = tf.bitwise.bitwise_and(ids, JOINS - 1)
        rows.append(numbered(numbering, ids))
        splits.append(begins)
    return rows, [tf.reshape(piece[:, 1:], [-1]) for piece in of_streams], splits


def numbered(numbering: Numbering, ids: tf.Tensor) -> tf.Tensor:
    """[n] int64: the numbers of the rows of `ids` [n].

    Raises:
      tf.errors.InvalidArgumentError: an id does not stand among those known by their places.
    """
    if numbering.by == "ids":
        return ids
    known = tf.constant(numbering.known, tf.int64)
    if numbering.by == "buckets":
        buckets = len(numbering.known)
        bucket = tf.bitwise.bitwise_and(ids, tf.constant(buckets - 1, tf.int64))
        return tf.gather(known, bucket) + tf.bitwise.right_shift(ids, tf.constant(buckets.bit_length() - 1, tf.int64))
    places = tf.searchsorted(known, ids, out_type=tf.int64)
    there = tf.gather(tf.concat([known, [-1]], 0), places)
    check = tf.debugging.Assert(tf.reduce_all(tf.equal(there, ids)), ["this part does not hold all of the ids", ids])
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(places)


def pool(
    received: tf.Tensor,
    local: Mapping[int, tf.Tensor],
    rank: int,
    streams: Sequence[Stream],
    starts: tf.Tensor,
    sizes: tf.Tensor,
    dims: Sequence[int],
    bags: Sequence[Bag],
) -> list[tf.Tensor]:
    """[B, dim] float32 of each bag, pooled from its ids' vectors; `ids` of a bag are their places among its table's
    distinct ids. received: [n, unit], the vectors that came from other ranks, as packed. starts, sizes: [streams,
    ranks] int64: where among the table's distinct ids those begin whose vectors a rank has sent, and how many they
    are. local: vectors [rows, width] float32 by stream that are here, on rank `rank`: of the ids that begin at its
    start. dims: of the tables.

    Raises:
      tf.errors.InvalidArgumentError: sizes do not cover what was received, a place is beyond the table's ids, a weight
        is not finite, or splits do not rise from 0 to the number of ids.
    """
    pieces = unpack(received, streams, sizes)
    for s, vectors in local.items():
        pieces[s] = _inserted(pieces[s], vectors, tf.reduce_sum(sizes[s, :rank]))
    by_columns: dict[int, dict[int, list[tf.Tensor]]] = {table: {} for table in range(len(dims))}
    for stream, piece in zip(streams, pieces, strict=True):
        by_columns[stream.table].setdefault(stream.first_column, []).append(piece)
    whole = [
        tf.concat([tf.concat(rows, 0) for _, rows in sorted(columns.items())], 1) for columns in by_columns.values()
    ]
    outputs = []
    for bag in bags:
        vectors = whole[bag.table]
        with tf.control_dependencies(checks_of_places(bag, tf.shape(vectors, tf.int64)[0])):
            outputs.append(pooled(tf.gather(vectors, bag.ids), bag))
    return outputs


def sums(
    bags: Sequence[Bag], gradients: Sequence[tf.Tensor], counts: tf.Tensor, dims: Sequence[int]
) -> list[tf.Tensor]:
    """Of each table [counts[t], dims[t]] float32: the gradient of each of its distinct ids, summed over the bags, whose
    `ids` are places among these. gradients: [B, dim] of each bag's output; counts: [tables] int64.

    Raises:
      tf.errors.InvalidArgumentError: as `pool`.
    """
    found = [tf.zeros([counts[table], dim]) for table, dim in enumerate(dims)]
    checks = [check for bag in bags for check in checks_of_places(bag, counts[bag.table])]
    with tf.control_dependencies(checks):
        places = [tf.identity(bag.ids) for bag in bags]
    asked = {bag.table: counts[bag.table] for bag in bags}
    for table, of_table in summed_at(places, asked, list(bags), list(gradients)).items():
        found[table] = of_table
    return found


def summed_at(
    places: Sequence[tf.Tensor], counts: Mapping[int, tf.Tensor], bags: list[Bag], gradients: list[tf.Tensor]
) -> dict[int, tf.Tensor]:
    """By table [count, dim]: the gradient of each of its distinct ids, summed over the bags. places: [n] int64 of each
    bag, where its ids stand among the table's distinct ones; counts: [] of each table, how many these are."""
    parts: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {}
    for bag, of_bag, gradient in zip(bags, places, gradients, strict=True):
        parts.setdefault(bag.table, []).append((of_bag, of_ids(tf.convert_to_tensor(gradient), bag)))
    found = {}
    for table, pieces in parts.items():
        at, flat = (tf.concat(values, 0) for values in zip(*pieces, strict=True))
        found[table] = tf.math.unsorted_segment_sum(flat, at, counts[table])
    return found


def of_ids(gradient: tf.Tensor, bag: Bag) -> tf.Tensor:
    """[n, dim]: each id's share of its bag's gradient [B, dim]."""
    if bag.splits is None:
        return gradient
    if bag.combiner != "sum":
        gradient *= norms(bag)[:, tf.newaxis]
    spread = tf.gather(gradient, rows_of_ids(bag.splits))
    return spread if bag.weights is None else spread * bag.weights[:, tf.newaxis]


def checks_of_places(bag: Bag, count: tf.Tensor) -> list[tf.Operation]:
    """Assertions that a bag's ids are in 0..count-1, its weights finite and its splits sound."""
    inside = tf.reduce_all((bag.ids >= 0) & (bag.ids < count))
    message = f"feature {bag.name}: ids outside its vocabulary, the distinct ids of its table:"
    checks = [tf.debugging.Assert(inside, [message, count])]
    checks += [*checks_of([replace(bag, table=0)], [None]), *checks_of_splits(bag)]
    return [check for check in checks if check is not None]


def _units(streams: Sequence[Stream], unit: int) -> tf.Tensor:
    """[streams, 1] int64: of how many units a row of each is."""
    return tf.constant([[stream.width // unit] for stream in streams], tf.int64)


def _by_stream(rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Rows that stand rank by rank, within each stream by stream, put stream by stream. sizes: [streams, ranks]."""
    covered = tf.equal(tf.reduce_sum(sizes), tf.shape(rows, tf.int64)[0])
    check = tf.debugging.Assert(covered, ["sizes do not cover what was received:", tf.shape(rows), sizes])
    of_ranks = tf.transpose(sizes)
    starts = tf.transpose(tf.reshape(tf.cumsum(tf.reshape(of_ranks, [-1]), exclusive=True), tf.shape(of_ranks)))
    with tf.control_dependencies([] if check is None else [check]):
        return tf.gather(rows, ranges(starts, sizes))
