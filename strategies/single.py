"""One process, one device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from foundation.tf import tf
from strategies.base import Communicator, Topology


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


class SingleStrategy:
    """Strategy "single"."""

    is_chief = True

    def __init__(self) -> None:
        self.communicator: Communicator = LocalCommunicator()
        device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        self.topology = Topology(ranks=1, ranks_per_host=1, device=device)

    def scope(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def distribute(self, batches: Iterable[Any]) -> Iterator[Any]:
        return iter(batches)

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        return step(*arguments)

    def barrier(self) -> None:
        return None
