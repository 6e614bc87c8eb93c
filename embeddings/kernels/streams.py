"""What the kernels of an exchange work on: the parts of tables that travel, and who holds which ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embeddings.kernels.group import Bag
from foundation.tf import tf

JOINS = 1 << 62  # on an id as it travels: the request of the id before it asks for it too
ID_BYTES = 8


@dataclass(frozen=True)
class Stream:
    """A part of a table in an exchange: `width` columns of it from `first_column` on, of some of its distinct ids.
    table: its place among those that are asked for."""

    table: int
    first_column: int
    width: int


@dataclass(frozen=True, eq=False)
class Owners:
    """Who holds a table's ids. of_buckets: [buckets] int64, a power of two of them: the rank that holds each. An id's
    bucket is named by the first bits of its hash, or with `modulo` is the id modulo their number. common: [n] int64,
    rising: ids that no rank owns. vocabulary_size: None: any id may come."""

    of_buckets: np.ndarray
    modulo: bool
    common: np.ndarray
    vocabulary_size: int | None


@dataclass(frozen=True, eq=False)
class Requests:
    """What an exchange asks for, of several tables. A request is what one vector answers: an id, or the ids of a bag
    that one rank holds, whose rows are then summed there.

    sent: of each table its ids [n, 1] int64, rank by rank, those that are common last, with JOINS those that belong to
    the request of the id before; or counted [n, 2], and how often each came. id_splits, splits: [tables, ranks + 2]
    int64: where each rank's ids and requests begin, the common ones do, and these end. bags: as they were given, over
    places among their table's requests."""

    sent: list[tf.Tensor]
    id_splits: tf.Tensor
    splits: tf.Tensor
    bags: list[Bag]


@dataclass(frozen=True, eq=False)
class Numbering:
    """How ids become numbers of rows, once they are rid of JOINS where `joins` says that several may be one request. by
    "ids": they are. "buckets": `known` [buckets] int64, a power of two of them, says where the rows of the ids that are
    equal modulo their number begin, which are in the order of ids. "places": where they stand in `known` [n] int64,
    which rises."""

    by: Literal["ids", "buckets", "places"]
    known: np.ndarray
    joins: bool = False


AS_THEY_ARE = Numbering("ids", np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Own:
    """What a rank does not send to itself: of stream s the rows of `pieces[piece_of[s]]` [rows, columns] from
    `starts[s]` on, its columns of them. piece_of -1: it travels like the others'. starts: [streams] int64."""

    rank: int
    pieces: Sequence[tf.Tensor]
    piece_of: Sequence[int]
    starts: tf.Tensor
