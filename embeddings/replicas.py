"""Tables spread over the replicas of one process: who they are, and lookups that none of them makes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from embeddings.kernels import must_be_stock, stock_only
from embeddings.kernels.group import Bag
from foundation.tf import tf
from strategies import MirroredCommunicator

if TYPE_CHECKING:
    from embeddings.exchange import Exchange
    from strategies import Communicator

_OUTSIDE = (
    "ShardedEmbedding: its tables are spread over this process' replicas, and learn only in what strategy.run runs; "
    "elsewhere a call is a plain lookup."
)


def ranks_here(communicator: Communicator) -> Sequence[Communicator]:
    """The communicator of each rank that this process runs."""
    return communicator.replicas if isinstance(communicator, MirroredCommunicator) else [communicator]


def place_here(communicator: Communicator) -> int | None:
    """Which of `ranks_here` is running this. None: no replica is."""
    return communicator.replica if isinstance(communicator, MirroredCommunicator) else 0


def looked_up(
    communicator: Communicator, lookups: Sequence[Exchange], bags: list[Bag], trap: tf.Variable, training: bool
) -> list[tf.Tensor]:
    """[B, dim] of each bag, asked for outside a step of the replicas: the first asks for all, the others for nothing.
    lookups: of each rank.

    Raises:
      RuntimeError: in training, or a gradient is asked through it.
    """
    assert isinstance(communicator, MirroredCommunicator)
    distribution = communicator.distribution
    if training:
        raise RuntimeError(_OUTSIDE)
    stock = must_be_stock()  # which the replicas' threads would not know

    def one() -> list[tf.Tensor]:
        rank = communicator.rank
        asked = bags if rank == 0 else [_nothing_of(bag) for bag in bags]
        with stock_only() if stock else nullcontext():
            return lookups[rank].output_dist(lookups[rank].input_dist(asked, False), asked)

    @tf.custom_gradient
    def trapped(_: tf.Tensor):
        outputs = [distribution.experimental_local_results(of_bag)[0] for of_bag in distribution.run(one)]

        def backward(*_: tf.Tensor) -> tf.Tensor:
            raise RuntimeError(_OUTSIDE)

        return outputs, backward

    return trapped(tf.convert_to_tensor(trap))


def _nothing_of(bag: Bag) -> Bag:
    """No bags of the same kind."""
    return replace(
        bag,
        ids=bag.ids[:0],
        splits=None if bag.splits is None else bag.splits[:1],
        weights=None if bag.weights is None else bag.weights[:0],
    )
