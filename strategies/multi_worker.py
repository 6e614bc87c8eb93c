"""Several processes, one device each, joined by TensorFlow's MultiWorkerMirroredStrategy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from foundation.errors import UserError
from foundation.tf import tf
from strategies.base import ProcessStrategy, Topology, local_device
from strategies.collectives import CollectiveCommunicator, process_communicator
from strategies.shared_memory import SharedMemoryCommunicator, communicator_for, refuse_on_gpu


class MultiWorkerStrategy(ProcessStrategy):
    """Strategy "multi_worker": TF_CONFIG says who takes part. Dense variables are made in `scope()`, where they begin
    as rank 0's; tables are each rank's own.

    Raises:
      UserError: TF_CONFIG is missing or is not what TensorFlow wants.
    """

    def __init__(self) -> None:
        hosts = _workers()
        hint = tf.distribute.experimental.CommunicationImplementation
        device = local_device()
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=hint.NCCL if device == "GPU" else hint.RING
        )
        self.distribution = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        communicator = communicator_of(self.distribution)
        if communicator is None:
            raise UserError(
                "multi_worker: this process sees several devices.",
                "One process drives one device: set CUDA_VISIBLE_DEVICES for each, or use 'mirrored'.",
            )
        host = hosts[communicator.rank].rsplit(":", 1)[0]
        here = sum(address.rsplit(":", 1)[0] == host for address in hosts)
        super().__init__(communicator, Topology(ranks=len(hosts), ranks_per_host=here, device=device))

    def scope(self) -> AbstractContextManager[Any]:
        return self.distribution.scope()

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        return self.distribution.run(step, args=arguments)


def communicator_of(
    distribution: tf.distribute.Strategy,
) -> CollectiveCommunicator | SharedMemoryCommunicator | None:
    """The exchange between the processes that a tf.distribute strategy has joined; None: it has joined none, or a
    process drives several devices. Processes of one machine, on its CPU, share memory (`communicator_for`).

    Raises:
      UserError: HEADRACE_EXCHANGE asks for what cannot be.
    """
    joined = isinstance(distribution, tf.distribute.MultiWorkerMirroredStrategy)
    if not joined or distribution.cluster_resolver is None or len(distribution.extended.worker_devices) != 1:
        return None
    resolver = distribution.cluster_resolver
    rank, ranks = int(resolver.task_id), distribution.num_replicas_in_sync
    if "GPU" in distribution.extended.worker_devices[0]:
        refuse_on_gpu()
        return process_communicator(rank, ranks, "nccl")
    return communicator_for(process_communicator(rank, ranks, "ring"))


def _workers() -> list[str]:
    """The addresses of all ranks, from TF_CONFIG."""
    wanted = 'Wanted: {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}.'
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(
            "multi_worker: TF_CONFIG is not set, so nobody says who takes part.",
            f"`headrace run JOB --workers N` sets it on one machine; a cluster's launcher does on many. {wanted}",
        )
    try:
        document = json.loads(text)
        hosts, index = document["cluster"]["worker"], document["task"]["index"]
        good = isinstance(hosts, list) and document["task"]["type"] == "worker" and 0 <= index < len(hosts)
    except (ValueError, LookupError, TypeError):
        good = False
    if not good:
        raise UserError(f"multi_worker: TF_CONFIG is not what TensorFlow wants: {text[:200]}", wanted)
    return [str(host) for host in hosts]
