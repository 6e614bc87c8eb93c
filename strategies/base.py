"""What the rest of the house asks of the place it runs in: two small protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from foundation.tf import tf


@dataclass(frozen=True)
class Topology:
    """The devices that share the work. ranks: one device each; ranks_per_host: of them, on one machine. device: "CPU",
    "GPU" or "TPU"."""

    ranks: int
    ranks_per_host: int
    device: str


class Communicator(Protocol):
    """Exchange between the ranks. A tensor's first dimension is rows. All ranks trace, or call eagerly, the same
    exchanges in the same order; those that do not depend on each other may run at once. None has a gradient."""

    @property
    def rank(self) -> int:
        """This rank's number, from 0."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """sizes: [size, size] int64, known to all: sizes[s, r] rows go from rank s to rank r. rows: this rank's, in the
        order of who receives them. Returns those received, in the order of who sent them."""

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        """Every rank's value, of one shape, one below the other in rank order."""

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        """The sum over ranks."""

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        """The value of rank `root`; all give one of its shape."""


def local_device() -> str:
    """ "GPU" where TensorFlow sees one, else "CPU"."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


class Strategy(Protocol):
    """Where a step runs. One process drives one device."""

    communicator: Communicator
    topology: Topology
    fixed_shapes: bool  # whether every batch of a training must have the shapes of the first

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints and logs."""

    def scope(self) -> AbstractContextManager[Any]:
        """The context that dense variables are made in."""

    @property
    def ranks(self) -> range:
        """Those that this process drives."""

    def distribute(self, batches: Iterable[Iterable[Any]]) -> Iterator[Any]:
        """What `run` takes, step by step. batches: for each of `ranks` its parts of the global batches."""

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """One step on this rank's device."""

    def run_begun(self, begin: Callable[..., Any], finish: Callable[..., Any], batch: Any, step: Any) -> Any:
        """One step in two parts: `finish(begun, step)` on each rank's device, of what `begin(batch, step)` made, which
        reads no weight, there or where the device wants it made."""

    def barrier(self) -> None:
        """Returns when every rank has come here."""


class ProcessStrategy:
    """A rank of one process and device, whose variables are its own and whose steps are called as they are: what
    strategies build on."""

    fixed_shapes = False

    def __init__(self, communicator: Communicator, topology: Topology) -> None:
        self.communicator, self.topology = communicator, topology

    @property
    def is_chief(self) -> bool:
        return self.communicator.rank == 0

    def scope(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @property
    def ranks(self) -> range:
        return range(self.communicator.rank, self.communicator.rank + 1)

    def distribute(self, batches: Iterable[Iterable[Any]]) -> Iterator[Any]:
        [own] = batches
        return iter(own)

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        return step(*arguments)

    def run_begun(self, begin: Callable[..., Any], finish: Callable[..., Any], batch: Any, step: Any) -> Any:
        return run_whole(self, begin, finish, batch, step)

    def barrier(self) -> None:
        self.communicator.all_reduce(tf.zeros([1]))


def run_whole(strategy: Strategy, begin: Callable[..., Any], finish: Callable[..., Any], batch: Any, step: Any) -> Any:
    """`Strategy.run_begun` where both parts are the device's."""
    return strategy.run(lambda batch, step: finish(begin(batch, step), step), batch, step)
