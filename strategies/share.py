"""A rank's share of a global batch, and what its rows need of the other ranks' rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundation.tf import tf
from strategies.base import Communicator


@dataclass(frozen=True, eq=False)
class BatchShare:
    """Rows [first, first + n) of a global batch of `total`, this rank's; ranks' shares follow each other in their
    order. first, total: [] int64. counts: [ranks] int64, the rows of each. tf.nest sees its tensors."""

    communicator: Communicator
    first: tf.Tensor
    total: tf.Tensor
    counts: tf.Tensor

    def __tf_flatten__(self) -> tuple[Any, tuple[tf.Tensor, ...]]:
        return self.communicator, (self.first, self.total, self.counts)

    @classmethod
    def __tf_unflatten__(cls, communicator: Any, components: tuple[tf.Tensor, ...]) -> BatchShare:
        return cls(communicator, *components)


def share_of(communicator: Communicator, rows: tf.Tensor) -> BatchShare:
    """The share of a rank that holds so many rows, [] integer. One exchange."""
    return shares_of(communicator, [rows])[0]


def shares_of(communicator: Communicator, rows: Sequence[tf.Tensor]) -> list[BatchShare]:
    """Of several kinds of rows, such as lists and their rows, the share of each. One exchange."""
    mine = tf.stack([tf.cast(of_kind, tf.int64) for of_kind in rows])
    everyone = communicator.all_gather(mine[tf.newaxis])
    before = tf.reduce_sum(everyone[: communicator.rank], 0)
    return [
        BatchShare(communicator, before[kind], tf.reduce_sum(everyone[:, kind]), everyone[:, kind])
        for kind in range(len(rows))
    ]


def gathered(share: BatchShare, rows: tf.Tensor) -> tf.Tensor:
    """[total, ...]: the rows [n, ...] of all ranks in the global batch's order, everywhere. Its gradient is that of
    all ranks' losses summed. One exchange, and one of the gradient."""
    communicator = share.communicator
    if communicator.size == 1:
        return rows
    sizes = tf.tile(share.counts[:, tf.newaxis], [1, communicator.size])

    @tf.custom_gradient
    def gather(rows: tf.Tensor) -> tuple[tf.Tensor, object]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            came = communicator.all_to_all(upstream, tf.transpose(sizes))
            return tf.reduce_sum(tf.reshape(came, tf.concat([[communicator.size], tf.shape(rows)], 0)), 0)

        copies = tf.tile(rows, tf.concat([[communicator.size], tf.ones([rows.shape.rank - 1], tf.int32)], 0))
        return communicator.all_to_all(copies, sizes), gradient

    return gather(rows)


def summed(communicator: Communicator, values: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Each tensor's sum over ranks, float32, in one exchange however many they are. None, on every rank, stays None."""
    if communicator.size == 1:
        return list(values)
    there = [value for value in values if value is not None]
    flat = tf.concat([tf.reshape(value, [-1]) for value in there], 0)
    parts = iter(tf.split(communicator.all_reduce(flat), [tf.size(value) for value in there]))
    return [None if value is None else tf.reshape(next(parts), tf.shape(value)) for value in values]
