"""Floor 1: where a job runs."""

from foundation.errors import UserError, nearest
from strategies.base import Communicator, Strategy, Topology
from strategies.single import SingleStrategy

__all__ = ["Communicator", "SingleStrategy", "Strategy", "Topology", "create_strategy"]

_BUILT = {"single": SingleStrategy}
_PLANNED = ("mirrored", "multi_worker", "horovod", "parameter_server", "tpu")


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
