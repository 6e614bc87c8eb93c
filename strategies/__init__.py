"""Floor 1: where a job runs."""

from collections.abc import Callable

from foundation.errors import UserError, nearest
from strategies.base import Communicator, Strategy, Topology
from strategies.horovod import HorovodStrategy
from strategies.multi_worker import MultiWorkerStrategy, communicator_of
from strategies.single import LocalCommunicator, SingleStrategy

__all__ = [
    "Communicator",
    "HorovodStrategy",
    "LocalCommunicator",
    "MultiWorkerStrategy",
    "SingleStrategy",
    "Strategy",
    "Topology",
    "communicator_of",
    "create_strategy",
]

_BUILT: dict[str, Callable[[], Strategy]] = {
    "single": SingleStrategy,
    "multi_worker": MultiWorkerStrategy,
    "horovod": HorovodStrategy,
}
_PLANNED = ("mirrored", "parameter_server", "tpu")


def create_strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
      UserError: there is none, or it is not built yet.
    """
    if name in _BUILT:
        return _BUILT[name]()
    if name in _PLANNED:
        raise UserError(f"training.strategy: '{name}' is not built yet.", "Use 'single', which runs in one process.")
    raise UserError(f"training.strategy: no strategy '{name}'; {nearest(name, (*_BUILT, *_PLANNED))}")
