"""Floor 1: where a job runs."""

from collections.abc import Callable

from foundation.errors import UserError, nearest
from strategies.base import Communicator, Strategy, Topology
from strategies.horovod import HorovodStrategy
from strategies.mirrored import MirroredCommunicator, MirroredStrategy, replicas_of
from strategies.multi_worker import MultiWorkerStrategy, communicator_of
from strategies.parameter_server import ParameterServerStrategy, servers_of
from strategies.single import LocalCommunicator, SingleStrategy
from strategies.tpu import TpuCommunicator, TpuStrategy, is_tpu

__all__ = [
    "Communicator",
    "HorovodStrategy",
    "LocalCommunicator",
    "MirroredCommunicator",
    "MirroredStrategy",
    "MultiWorkerStrategy",
    "ParameterServerStrategy",
    "SingleStrategy",
    "Strategy",
    "Topology",
    "TpuCommunicator",
    "TpuStrategy",
    "communicator_of",
    "create_strategy",
    "is_tpu",
    "replicas_of",
    "servers_of",
]

_BUILT: dict[str, Callable[[], Strategy]] = {
    "single": SingleStrategy,
    "multi_worker": MultiWorkerStrategy,
    "horovod": HorovodStrategy,
    "parameter_server": ParameterServerStrategy,
    "tpu": TpuStrategy,
}


def create_strategy(name: str, devices: int | None = None) -> Strategy:
    """The strategy of that name. devices: those that one process drives under "mirrored"; None: as many as it finds.

    Raises:
      UserError: there is none, or it cannot be had here.
    """
    if name == "mirrored":
        return MirroredStrategy(devices)
    if name in _BUILT:
        return _BUILT[name]()
    raise UserError(f"training.strategy: no strategy '{name}'; {nearest(name, [*_BUILT, 'mirrored'])}")
