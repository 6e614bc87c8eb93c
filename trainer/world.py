"""The ranks that run one job, as one of them sees them."""

from __future__ import annotations

import struct

from foundation.progress import mute
from foundation.tf import tf
from strategies import ParameterServerStrategy, SingleStrategy, Strategy, TpuStrategy, create_strategy
from trainer.job import Job
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

    def meet(self) -> None:
        """Returns when every process has come here."""
        if self.several_processes:
            self.strategy.barrier()


def alone() -> World:
    """A world of this process only."""
    return World(SingleStrategy(), Membership(rank=0, world_size=1))


def join_world(job: Job, membership: Membership) -> World:
    """This process's world, by the job's strategy.

    Raises:
      UserError: the strategy is not known, cannot be had here, or cannot do what the job asks for.
    """
    strategy = create_strategy(job.training.strategy, job.training.workers)
    if isinstance(strategy, TpuStrategy):
        check_tpu_job(job, strategy.topology.ranks)
    return World(strategy, membership)
