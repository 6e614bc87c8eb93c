"""One process that drives several devices: TensorFlow's MirroredStrategy, each of whose replicas is a rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from foundation.errors import UserError, first_line
from foundation.tf import tf
from strategies.base import Communicator, Topology, run_whole
from strategies.single import LocalCommunicator

DEVICES = "HEADRACE_DEVICES"  # how many this process drives, where the caller does not say


class ReplicaCommunicator:
    """One replica's side of the exchange between the replicas of one process.

    All replicas' tensors are in one graph, or one eager process: an exchange slices and joins them, and TensorFlow
    copies between devices what must be copied. No collective op waits for another, so none can be paired wrongly, and
    sums are taken in the order of ranks. It happens where TensorFlow lets the replicas meet (`merge_call`): in a step
    that `run` calls, its backward pass included, but not within a tf.cond, a loop or a tf.function of the step's own.
    """

    def __init__(self, rank: int, devices: Sequence[str]) -> None:
        self.rank, self.size, self._devices = rank, len(devices), tuple(devices)

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Communicator`.

        Raises:
          tf.errors.InvalidArgumentError: `sizes` do not cover the rows.
        """
        rows = tf.convert_to_tensor(rows)

        def meet(each_rows: list[tf.Tensor], each_sizes: list[tf.Tensor]) -> list[tf.Tensor]:
            sent = [
                self._cut(each_rows[rank], each_sizes[rank][rank], self._devices[rank]) for rank in range(self.size)
            ]
            received = []
            for rank, device in enumerate(self._devices):
                with tf.device(device):
                    received.append(tf.concat([of_sender[rank] for of_sender in sent], 0))
            return received

        received = self._met(meet, rows, tf.cast(sizes, tf.int64))[self.rank]
        received.set_shape([None, *rows.shape[1:]])
        return received

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        return self._met(lambda each: tf.concat(each, 0), value)

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        return self._met(tf.add_n, value)

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        if not 0 <= root < self.size:
            raise ValueError(f"root is {root}; ranks are 0 to {self.size - 1}")
        return self._met(lambda each: tf.identity(each[root]), value)

    def _cut(self, rows: tf.Tensor, sizes: tf.Tensor, device: str) -> list[tf.Tensor]:
        with tf.device(device):
            return tf.split(rows, sizes, num=self.size)

    def _met(self, meet: Callable[..., Any], *values: Any) -> Any:
        """What `meet` makes of the lists of all replicas' values; every replica gets the same."""

        def merge(distribution: tf.distribute.Strategy, *merged: Any) -> Any:
            with tf.device(self._devices[0]):
                return meet(*(self._each(distribution, value) for value in merged))

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync != self.size:
            raise RuntimeError("replicas exchange only within a step: call this from what strategy.run runs")
        return context.merge_call(merge, args=tuple(map(tf.convert_to_tensor, values)))

    def _each(self, distribution: tf.distribute.Strategy, value: Any) -> list[tf.Tensor]:
        """Rank by rank; TensorFlow gives one value where all replicas' are one and the same tensor."""
        values = list(distribution.experimental_local_results(value))
        return values * self.size if len(values) == 1 else values


class MirroredCommunicator:
    """The exchange between the replicas of a MirroredStrategy: in a step, that of the replica which runs it. It has no
    state: replicas' calls are paired by their order, which `merge_call` sees to."""

    def __init__(self, distribution: tf.distribute.MirroredStrategy) -> None:
        self.distribution = distribution
        devices = distribution.extended.worker_devices
        self.size = len(devices)
        self.replicas = [ReplicaCommunicator(rank, devices) for rank in range(self.size)]

    @property
    def replica(self) -> int | None:
        """The rank of the replica that runs this; None: none does."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync != self.size:
            return None
        return int(tf.get_static_value(context.replica_id_in_sync_group))

    @property
    def rank(self) -> int:
        """Raises:
        RuntimeError: no replica runs this.
        """
        if (replica := self.replica) is None:
            raise RuntimeError("this process has several ranks: which one it is can be asked within strategy.run alone")
        return replica

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        return self.replicas[self.rank].all_to_all(rows, sizes)

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        return self.replicas[self.rank].all_gather(value)

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        return self.replicas[self.rank].all_reduce(value)

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        return self.replicas[self.rank].broadcast(value, root)


class MirroredStrategy:
    """Strategy "mirrored". Dense variables are made in `scope()`, a copy for each device that TensorFlow keeps alike;
    of tables each replica holds its shards.

    Make it before anything has asked TensorFlow for a tensor or a device: the processor is divided then.

    Raises:
      UserError: there are fewer devices than asked for, or TensorFlow has begun and the processor is not divided so.
    """

    fixed_shapes = False

    def __init__(self, devices: int | None = None) -> None:
        """devices: how many, each a rank: GPUs, or where there are none logical devices that share the processor.
        None: as many as HEADRACE_DEVICES says, else all GPUs, else one."""
        names, kind = _devices(_asked() if devices is None else devices)
        self.distribution = tf.distribute.MirroredStrategy(names)
        self.communicator: Communicator = (
            MirroredCommunicator(self.distribution) if len(names) > 1 else LocalCommunicator()
        )
        ranks = len(names)
        self.topology = Topology(ranks=ranks, ranks_per_host=ranks, device=kind)

    @property
    def is_chief(self) -> bool:
        return True

    @property
    def ranks(self) -> range:
        """Those of this process: all there are."""
        return range(self.topology.ranks)

    def scope(self) -> AbstractContextManager[Any]:
        return self.distribution.scope()

    def distribute(self, batches: Iterable[Iterable[Any]]) -> Iterator[Any]:
        """batches: for each rank in turn its parts of the global batches. Yields what `run` hands to each replica its
        own part of. Works within a tf.function too, on iterators of tf.data.

        Raises:
          ValueError: there is not one for each rank.
        """
        of_ranks = list(batches)
        if len(of_ranks) != self.topology.ranks:
            raise ValueError(f"mirrored: batches of {len(of_ranks)} ranks were given; there are {self.topology.ranks}")
        return Distributed(self.distribution, of_ranks)

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """The step on every device. Returns what the first rank's gave: what a step must tell of all ranks, it sums or
        gathers itself, as under every other strategy."""
        return of_first_rank(self.distribution, self.distribution.run(step, args=arguments))

    def run_begun(self, begin: Callable[..., Any], finish: Callable[..., Any], batch: Any, step: Any) -> Any:
        return run_whole(self, begin, finish, batch, step)

    def barrier(self) -> None:
        """Returns at once: there is one process."""


class Distributed:
    """An iterator over values that each hold a part for every replica."""

    def __init__(self, distribution: tf.distribute.Strategy, batches: Sequence[Iterable[Any]]) -> None:
        self._distribution, self._batches = distribution, [iter(of_rank) for of_rank in batches]

    def __iter__(self) -> Distributed:
        return self

    def __next__(self) -> Any:
        parts = [next(of_rank) for of_rank in self._batches]
        return self._distribution.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )


def of_first_rank(distribution: tf.distribute.Strategy, results: Any) -> Any:
    """What the first replica's step gave."""
    return tf.nest.map_structure(lambda value: distribution.experimental_local_results(value)[0], results)


def replicas_of(distribution: tf.distribute.Strategy) -> MirroredCommunicator | None:
    """The exchange between the replicas of a tf.distribute strategy; None: it is of another kind, or has one."""
    if not isinstance(distribution, tf.distribute.MirroredStrategy) or distribution.num_replicas_in_sync == 1:
        return None
    return MirroredCommunicator(distribution)


def _asked() -> int | None:
    text = os.environ.get(DEVICES)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(f"mirrored: {DEVICES} is {text!r}.", "It is how many devices to use, a whole number.") from None


def _devices(count: int | None) -> tuple[list[str], str]:
    """(TensorFlow's names of so many devices, their kind)."""
    gpus = tf.config.list_physical_devices("GPU")
    if count is None:
        count = len(gpus) or 1
    if count < 1:
        raise UserError(f"mirrored: {count} devices are asked for.", "At least one is wanted.")
    if not gpus:
        _divide_processor(count)
        return [f"CPU:{number}" for number in range(count)], "CPU"
    if count > len(gpus):
        raise UserError(
            f"mirrored: {count} devices are asked for; TensorFlow sees {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}.",
            f"Ask for at most {len(gpus)}; with CUDA_VISIBLE_DEVICES='' the processor is divided instead.",
        )
    return [f"GPU:{number}" for number in range(count)], "GPU"


def _divide_processor(count: int) -> None:
    """Makes at least so many logical devices of the processor."""
    processor = tf.config.list_physical_devices("CPU")[0]
    made = tf.config.get_logical_device_configuration(processor) or [None]
    if count <= len(made):
        return
    try:
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise UserError(
            f"mirrored: {count} devices are asked for; TensorFlow has begun with {len(made)} ({first_line(error)}).",
            "Make the strategy before anything else asks TensorFlow for a tensor or a device.",
        ) from error
