"""The ranks that run one job, as one of them sees them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation.files import atomic_directory, partial_of
from foundation.progress import mute
from foundation.tf import tf
from strategies import ParameterServerStrategy, SingleStrategy, Strategy, TpuStrategy, create_strategy
from trainer.job import Job
from trainer.preemption import heed_again
from trainer.supervisor.member import Membership
from trainer.tpu_job import check_tpu_job


class World:
    """Every rank goes through the same stages in the same order; the chief, rank 0, alone reads what is on disk to
    decide, and alone writes and speaks."""

    def __init__(self, strategy: Strategy, membership: Membership) -> None:
        self.strategy, self.communicator, self.membership = strategy, strategy.communicator, membership
        if not self.is_chief:
            mute()

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.communicator.size

    @property
    def holds_the_model(self) -> bool:
        """Whether this process has all of a model that it trains, in its own memory."""
        elsewhere = isinstance(self.strategy, ParameterServerStrategy | TpuStrategy)
        return self.size == 1 and not elsewhere

    @property
    def is_chief(self) -> bool:
        return self.strategy.is_chief

    @property
    def several_processes(self) -> bool:
        """Whether others than this one hold ranks."""
        return self.communicator.size > len(self.strategy.ranks)

    def agreed(self, value: int) -> int:
        """The chief's value, everywhere."""
        if not self.several_processes:
            return value
        return int(self.communicator.broadcast(tf.constant([value], tf.int64))[0])

    def agreed_number(self, value: float) -> float:
        """The chief's value, everywhere, bit by bit: ranks' processors may differ in the last ones."""
        [bits] = struct.unpack("q", struct.pack("d", value))
        [same] = struct.unpack("d", struct.pack("q", self.agreed(bits)))
        return same

    def any(self, flag: bool) -> bool:
        """Whether it holds on some rank, told to all."""
        if not self.several_processes:
            return flag
        return bool(self.communicator.all_reduce(tf.constant([float(flag)]))[0] > 0)

    def meet(self) -> None:
        """Returns when every process has come here."""
        if self.several_processes:
            self.strategy.barrier()

    @contextmanager
    def atomic_directory(self, path: Path) -> Iterator[Path]:
        """`foundation.files.atomic_directory` that every process writes to, on a disk they share; it takes its name
        once all have written, and has it when the block ends, for all."""
        if not self.several_processes:
            with atomic_directory(path) as temporary:
                yield temporary
        elif self.is_chief:
            with atomic_directory(path) as temporary:
                self.agreed(os.getpid())
                yield temporary
                self.meet()
            self.meet()
        else:
            yield partial_of(path, self.agreed(0))
            self.meet()  # all have written
            self.meet()  # it has its name


def alone() -> World:
    """A world of this process only."""
    return World(SingleStrategy(), Membership(rank=0, world_size=1))


def join_world(job: Job, membership: Membership) -> World:
    """This process's world, by the job's strategy.

    Raises:
      UserError: the strategy is not known, cannot be had here, or cannot do what the job asks for.
    """
    strategy = create_strategy(job.training.strategy, job.training.workers)
    heed_again()  # TensorFlow's runtime for several processes has put a handler of its own in place
    if isinstance(strategy, TpuStrategy):
        check_tpu_job(job, strategy.topology.ranks)
    return World(strategy, membership)
