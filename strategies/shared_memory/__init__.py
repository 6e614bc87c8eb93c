"""Exchange between the processes of one machine through shared memory."""

from strategies.shared_memory.agreement import communicator_for, refuse_on_gpu
from strategies.shared_memory.communicator import SharedMemoryCommunicator

__all__ = ["SharedMemoryCommunicator", "communicator_for", "refuse_on_gpu"]
