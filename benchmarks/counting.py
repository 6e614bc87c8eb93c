"""A communicator that counts: what a step's exchanges move from one rank to others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from foundation.tf import tf
from strategies import Communicator


@dataclass(frozen=True, eq=False)
class Call:
    """One exchange of a traced step. leaving: [] int64, bytes that this rank hands over for other ranks."""

    kind: str
    dtype: str
    leaving: tf.Tensor


class CountingCommunicator:
    """Passes every call on. What is traced within `counting` is counted too."""

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size
        self._calls: list[Call] | None = None

    @contextmanager
    def counting(self) -> Iterator[list[Call]]:
        """The calls made meanwhile, in their order."""
        calls: list[Call] = []
        self._calls = calls
        try:
            yield calls
        finally:
            self._calls = None

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        sent = tf.cast(sizes, tf.int64)[self.rank]
        row = tf.reduce_prod(tf.shape(rows, tf.int64)[1:])
        self._count("all_to_all", rows, (tf.reduce_sum(sent) - sent[self.rank]) * row)
        return self._communicator.all_to_all(rows, sizes)

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        self._count("all_gather", value, tf.size(value, tf.int64) * (self.size - 1))
        return self._communicator.all_gather(value)

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        # the least there is (Patarasu and Yuan, 2009): a ring's, whatever the communicator does
        self._count("all_reduce", value, 2 * tf.size(value, tf.int64) * (self.size - 1) // self.size)
        return self._communicator.all_reduce(value)

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        others = self.size - 1 if self.rank == root else 0
        self._count("broadcast", value, tf.size(value, tf.int64) * others)
        return self._communicator.broadcast(value, root)

    def _count(self, kind: str, value: tf.Tensor, numbers: tf.Tensor) -> None:
        if self._calls is not None:
            dtype = tf.convert_to_tensor(value).dtype
            self._calls.append(Call(kind, dtype.name, numbers * dtype.size))
