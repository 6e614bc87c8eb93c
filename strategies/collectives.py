"""Exchange between processes through TensorFlow's own collective ops."""

from __future__ import annotations

import itertools
from functools import cache

from foundation.tensors import ranges
from foundation.tf import tf

GROUP_KEY = 7_001  # apart from the groups that tf.distribute makes
STEPS_PER_OCTAVE = 8  # of capacities: at most an eighth of what is sent is padding
_KEYS_PER_CALL = 64 * STEPS_PER_OCTAVE


class CollectiveCommunicator:
    """The ranks of a cluster that tf.distribute has joined, each one process and device.

    A collective op wants one shape for each instance key for as long as the process lives, and equal parts for all. So
    every call gets keys of its own, in the order of tracing, which is the same on all ranks; an all-to-all is padded to
    a capacity, one of STEPS_PER_OCTAVE an octave, with a key for each.

    Any error of a collective is final for the process: the group must be started anew.
    """

    def __init__(self, rank: int, size: int, hint: str = "ring") -> None:
        self.rank, self.size = rank, size
        self._hint = hint
        self._calls = itertools.count(1)

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Communicator`. The capacity is the largest part that any rank sends to any."""
        rows, sizes = tf.convert_to_tensor(rows), tf.cast(sizes, tf.int64)
        row = tf.shape(rows)[1:]
        capacity, step = _capacity(tf.reduce_max(sizes))
        padded = _padded(rows, sizes[self.rank], capacity)
        received = tf.raw_ops.CollectiveAllToAllV2(
            input=tf.reshape(padded, [self.size, -1]),
            instance_key=self._key(step),
            ordering_token=[],
            **self._group(),
        )
        received = tf.reshape(received, tf.concat([[-1], row], 0))
        parts = tf.gather(received, _places(sizes[:, self.rank], capacity))
        parts.set_shape([None, *rows.shape[1:]])
        return parts

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        gathered = tf.raw_ops.CollectiveGatherV2(
            input=_known(value), instance_key=self._key(), ordering_token=[], **self._group()
        )
        gathered = tf.bitcast(gathered, value.dtype)
        gathered.set_shape([value.shape[0] and value.shape[0] * self.size, *value.shape[1:]])
        return gathered

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        return tf.raw_ops.CollectiveReduceV2(
            input=tf.identity(value),
            instance_key=self._key(),
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            **self._group(),
        )

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        if not 0 <= root < self.size:
            raise ValueError(f"root is {root}; ranks are 0 to {self.size - 1}")
        value = tf.convert_to_tensor(value)
        known = _known(value)
        if self.rank == root:
            same = tf.raw_ops.CollectiveBcastSendV2(input=known, instance_key=self._key(), **self._group())
        else:
            same = tf.raw_ops.CollectiveBcastRecvV2(
                shape=tf.shape(value), T=known.dtype, instance_key=self._key(), **self._group()
            )
        return tf.bitcast(same, value.dtype)

    def _group(self) -> dict[str, object]:
        return {"group_size": self.size, "group_key": GROUP_KEY, "communication_hint": self._hint}

    def _key(self, step: tf.Tensor | int = 0) -> tf.Tensor:
        return tf.cast(step, tf.int32) + next(self._calls) * _KEYS_PER_CALL


@cache
def process_communicator(rank: int, size: int, hint: str) -> CollectiveCommunicator:
    """The one of this process: two would give their calls the same keys."""
    return CollectiveCommunicator(rank, size, hint)


def _known(value: tf.Tensor) -> tf.Tensor:
    """The same bits, of a type that collectives copy: they do not know bfloat16."""
    return tf.bitcast(value, tf.float16) if value.dtype == tf.bfloat16 else tf.identity(value)


def _capacity(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(The smallest capacity that holds so many rows, its number), [] int64 each: 1 to 16 one by one, then eight from
    each power of two to the next."""
    one = tf.constant(1, tf.int64)
    bits = tf.reduce_sum(tf.cast(tf.bitwise.left_shift(one, tf.range(62, dtype=tf.int64)) < rows, tf.int64))
    octave = tf.maximum(bits - 4, 0)
    unit = tf.bitwise.left_shift(one, octave)
    units = tf.maximum((rows + unit - 1) // unit, 1)
    return units * unit, octave * STEPS_PER_OCTAVE + units


def _places(sizes: tf.Tensor, capacity: tf.Tensor) -> tf.Tensor:
    """[sum(sizes)] int64: where rows lie whose parts, of so many rows, begin at multiples of the capacity."""
    return ranges(tf.range(tf.size(sizes, tf.int64)) * capacity, sizes)


def _padded(rows: tf.Tensor, sizes: tf.Tensor, capacity: tf.Tensor) -> tf.Tensor:
    """[size * capacity, ...]: each part at its multiple of the capacity, zeros behind it."""
    shape = tf.concat([[tf.size(sizes, tf.int64) * capacity], tf.shape(rows, tf.int64)[1:]], 0)
    return tf.scatter_nd(_places(sizes, capacity)[:, tf.newaxis], rows, shape)
