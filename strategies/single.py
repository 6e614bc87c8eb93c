"""One process, one device."""

from __future__ import annotations

from foundation.tf import tf
from strategies.base import ProcessStrategy, Topology, local_device


class LocalCommunicator:
    """The only rank there is: every exchange gives back what was put in."""

    rank = 0
    size = 1

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        count = tf.shape(rows, sizes.dtype)[0]
        tf.debugging.Assert(tf.equal(tf.reduce_sum(sizes), count), ["sizes do not cover the rows:", sizes, count])
        return rows

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        return value

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        return value

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        if root != 0:
            raise ValueError(f"root is {root}; the only rank is 0")
        return value


class SingleStrategy(ProcessStrategy):
    """Strategy "single"."""

    def __init__(self) -> None:
        super().__init__(LocalCommunicator(), Topology(ranks=1, ranks_per_host=1, device=local_device()))
