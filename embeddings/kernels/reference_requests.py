"""The twin of what an exchange asks for: ids to their owners, each once, or those of a bag together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from embeddings.hashing import splitmix64
from embeddings.kernels.group import Bag
from embeddings.kernels.reference_ids import GROUP_BITS
from embeddings.kernels.streams import ID_BYTES, JOINS, Owners, Requests
from embeddings.pooling import assert_inside, checks_of_splits, norms, rows_of_ids
from foundation.tf import tf

FEW_IDS = 32_768  # of a table: one group of them is enough
# Of a feature with more ids than this, the distinct ones are estimated from those with one hash value in 16.
COUNTED_IN_FULL, SAMPLE_OF = 16_384, 16


@dataclass(frozen=True, eq=False)
class _Together:
    """Of a bag the ids that are asked for together. alone: [n] bool, which are not. first: [requests] int64, the
    positions of the ids that begin a request, by owner, for an owner in order; owners: [requests] int64; sent, senders:
    [ids] int64, all of them as they travel, and their owners, in the same order."""

    alone: tf.Tensor
    first: tf.Tensor
    owners: tf.Tensor
    sent: tf.Tensor
    senders: tf.Tensor


def requests(
    bags: Sequence[Bag], tables: Sequence[Owners], ranks: int, counted: bool, row_bytes: Sequence[int]
) -> Requests:
    """What an exchange asks for of every table, each looked up by one bag at least. A bag without splits is asked for
    id by id, each once a table. One with splits (then without weights, and of a table with a vocabulary) is either that
    too, or pooled at its owners: of each of its bags the ids of one rank are a request, but for those that are common.
    So it is done where it moves fewer bytes. row_bytes: of a vector and its gradient, of each table.

    Of a rank come first the ids asked for one by one, in the order of the first bits of their hash (not of a table with
    FEW_IDS or fewer), then of first occurrence; then those asked for together, feature by feature.

    Raises:
      tf.errors.InvalidArgumentError: an id is outside its vocabulary, splits do not rise from 0 to the number of ids,
        buckets are no power of two, or an owner is no rank.
    """
    sent, id_splits, splits = [], [], []
    routed: list[Bag] = list(bags)
    for number, owners in enumerate(tables):
        of_table = [b for b, bag in enumerate(bags) if bag.table == number]
        checks = [check for b in of_table for check in checks_of_splits(bags[b])]
        if (size := owners.vocabulary_size) is not None:
            checks += [assert_inside(bags[b].name, bags[b].ids, size) for b in of_table]
        with tf.control_dependencies([check for check in checks if check is not None]):
            checked = [replace(bags[b], ids=tf.identity(bags[b].ids)) for b in of_table]
        together = [None if bag.splits is None else _together(bag, owners, ranks, row_bytes[number]) for bag in checked]
        pairs = list(zip(checked, together, strict=True))
        alone = [bag.ids if of_bag is None else tf.boolean_mask(bag.ids, of_bag.alone) for bag, of_bag in pairs]
        distinct, cuts, found = _unique(tf.concat(alone, 0), owners, ranks)
        of_distinct = tf.repeat(tf.range(ranks + 1, dtype=tf.int64), cuts[1:] - cuts[:-1])
        groups = [of_bag for of_bag in together if of_bag is not None]
        order, request_cuts = _by_owner([of_distinct, *(group.owners for group in groups)], ranks)
        place_of = tf.split(
            tf.math.invert_permutation(order), [tf.size(distinct), *(tf.size(group.owners) for group in groups)]
        )
        found = tf.gather(place_of[0], found)
        behind = iter(place_of[1:])
        for b, bag, of_bag, own in zip(
            of_table, checked, together, tf.split(found, [tf.size(ids) for ids in alone]), strict=True
        ):
            routed[b] = replace(bag, ids=own) if of_bag is None else _over_requests(bag, of_bag, own, next(behind))
        order, id_cuts = _by_owner([of_distinct, *(group.senders for group in groups)], ranks)
        columns = [tf.concat([distinct, *(group.sent for group in groups)], 0)]
        if counted:
            came = tf.math.unsorted_segment_sum(tf.ones_like(found), found, tf.size(order))
            came = tf.gather(came, place_of[0])
            columns.append(tf.concat([came, *(tf.ones_like(group.sent) for group in groups)], 0))
        sent.append(tf.gather(tf.stack(columns, 1), order))
        id_splits.append(id_cuts)
        splits.append(request_cuts)
    return Requests(sent, tf.stack(id_splits), tf.stack(splits), routed)


def _together(bag: Bag, owners: Owners, ranks: int, row_bytes: int) -> _Together:
    owner, rows = _owner_of(bag.ids, owners, ranks), rows_of_ids(bag.splits)
    held = owner < ranks
    order = tf.boolean_mask(tf.argsort(owner, stable=True), tf.sort(owner) < ranks)
    by_owner, of_bags = tf.gather(owner, order), tf.gather(rows, order)
    changes = (by_owner[1:] != by_owner[:-1]) | (of_bags[1:] != of_bags[:-1])
    begins = tf.concat([tf.ones_like(order[:1], tf.bool), changes], 0)
    mask = tf.where(tf.size(bag.ids) > COUNTED_IN_FULL, SAMPLE_OF - 1, 0)
    hashes = splitmix64(tf.cast(bag.ids, tf.uint64))
    sampled = held & tf.equal(tf.bitwise.bitwise_and(hashes, tf.cast(mask, tf.uint64)), 0)
    distinct = tf.size(tf.unique(tf.boolean_mask(bag.ids, sampled))[0], tf.int64) * tf.cast(mask + 1, tf.int64)
    pooled = ID_BYTES * tf.size(order, tf.int64) + row_bytes * tf.math.count_nonzero(begins)
    less = pooled < (ID_BYTES + row_bytes) * distinct
    order, begins, by_owner = (each[: tf.where(less, tf.size(order), 0)] for each in (order, begins, by_owner))
    ids = tf.gather(bag.ids, order)
    return _Together(
        tf.logical_not(held & less),
        tf.cast(tf.boolean_mask(order, begins), tf.int64),
        tf.boolean_mask(by_owner, begins),
        tf.where(begins, ids, tf.bitwise.bitwise_or(ids, JOINS)),
        by_owner,
    )


def _over_requests(bag: Bag, together: _Together, alone: tf.Tensor, groups: tf.Tensor) -> Bag:
    """The bag over places: `alone` of the ids that are asked for alone, `groups` of the requests of the others."""
    positions = tf.concat([tf.where(together.alone)[:, 0], together.first], 0)
    kept = tf.scatter_nd(positions[:, tf.newaxis], tf.ones_like(positions), [tf.size(bag.ids)])
    before = tf.concat([[0], tf.cumsum(kept)], 0)
    places = tf.gather(tf.concat([alone, groups], 0), tf.argsort(positions))
    splits = tf.gather(before, bag.splits)
    weights = None if bag.combiner == "sum" else tf.gather(norms(bag), rows_of_ids(splits))
    return replace(bag, ids=places, splits=splits, weights=weights, combiner="sum")


def _by_owner(pieces: Sequence[tf.Tensor], ranks: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The order [n] int64 in which what belongs to owners `pieces` stands by owner, for an owner as it came; and splits
    [ranks + 2] int64."""
    owners = tf.concat(pieces, 0)
    splits = tf.cumsum(tf.math.bincount(tf.cast(owners, tf.int32), minlength=ranks + 1, dtype=tf.int64))
    return tf.cast(tf.argsort(owners, stable=True), tf.int64), tf.concat([[0], splits], 0)


def unique_by_owner(
    ids: tf.Tensor, owners: tf.Tensor, ranks: int, modulo: bool = False
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(distinct ids [u] int64, rank by rank; splits [ranks + 1] int64; places [n] int64 of `ids` [n] among them).
    owners: [buckets] int64, see `Owners`."""
    of_table = Owners(owners, modulo, np.zeros(0, np.int64), None)
    distinct, splits, places = _unique(ids, of_table, ranks)
    return distinct, splits[:-1], places


def _unique(ids: tf.Tensor, owners: Owners, ranks: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    distinct, places = tf.unique(ids, out_idx=tf.int64)
    owner = _owner_of(distinct, owners, ranks)
    hashes = splitmix64(tf.cast(distinct, tf.uint64))
    group = tf.cast(tf.bitwise.right_shift(hashes, tf.constant(64 - GROUP_BITS, tf.uint64)), tf.int64)
    group = tf.where(tf.size(ids) <= FEW_IDS, tf.zeros_like(group), group)
    order = tf.argsort(owner * (1 << GROUP_BITS) + group, stable=True)
    splits = tf.cumsum(tf.math.bincount(tf.cast(owner, tf.int32), minlength=ranks + 1, dtype=tf.int64))
    moved = tf.math.invert_permutation(tf.cast(order, tf.int64))
    return tf.gather(distinct, order), tf.concat([[0], splits], 0), tf.gather(moved, places)


def _owner_of(ids: tf.Tensor, owners: Owners, ranks: int) -> tf.Tensor:
    """[n] int64: the rank that holds each of `ids` [n]; `ranks`, those that are common."""
    of_buckets = tf.convert_to_tensor(owners.of_buckets, tf.int64)
    count = tf.size(of_buckets)
    good = tf.reduce_all((of_buckets >= 0) & (of_buckets < ranks))
    power = tf.equal(tf.bitwise.bitwise_and(count, count - 1), 0) & (count > 0)
    checks = [
        tf.debugging.Assert(power, ["owners: a power of two of buckets is wanted, not", count]),
        tf.debugging.Assert(good, [f"owners: a bucket is given to a rank that is not among {ranks}", of_buckets]),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):
        buckets = tf.cast(count, tf.int64)
    if owners.modulo:
        bucket = tf.bitwise.bitwise_and(ids, buckets - 1)
    else:  # the first log2(buckets) bits of 32 that are enough for any number of buckets
        hashes = splitmix64(tf.cast(ids, tf.uint64))
        upper = tf.cast(tf.bitwise.right_shift(hashes, tf.constant(32, tf.uint64)), tf.int64)
        bucket = tf.bitwise.right_shift(upper * buckets, tf.constant(32, tf.int64))
    owner = tf.gather(of_buckets, bucket)
    if not len(owners.common):
        return owner
    known = tf.constant(owners.common, tf.int64)
    place = tf.minimum(tf.searchsorted(known, ids), len(owners.common) - 1)
    return tf.where(tf.equal(tf.gather(known, place), ids), tf.constant(ranks, tf.int64), owner)
