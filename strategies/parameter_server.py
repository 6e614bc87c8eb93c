"""Parameter servers hold the variables, workers take steps that do not wait for each other, a coordinator deals them
out: TensorFlow's ParameterServerStrategy."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from foundation.errors import UserError, first_line
from foundation.tf import tf
from strategies.base import ProcessStrategy, Topology, local_device
from strategies.single import LocalCommunicator

AHEAD = 2  # steps scheduled for each worker: one that it takes, one that waits
_WANTED = (
    'Wanted: {"cluster": {"chief": ["HOST:PORT"], "worker": ["HOST:PORT", ...], "ps": ["HOST:PORT", ...]}, "task": '
    '{"type": "chief", "index": 0}}, the same cluster in every process.'
)
# A call to a process that has ended fails at once, as the coordinator wants to be told, in place of waiting for it.
_SETTINGS = {"GRPC_FAIL_FAST": "use_caller"}
_THREADS = 4  # that run ops in a server, at least: with fewer, ops that wait for each other hang


@dataclass(frozen=True)
class Cluster:
    """Who takes part, as TF_CONFIG says: addresses "HOST:PORT" of workers and parameter servers; which task is this
    process': "chief" (the coordinator), "worker" or "ps", and its index."""

    workers: tuple[str, ...]
    servers: tuple[str, ...]
    task: str
    index: int

    @classmethod
    def here(cls) -> Cluster:
        """This process'.

        Raises:
          UserError: TF_CONFIG is missing or is not what TensorFlow wants.
        """
        text = os.environ.get("TF_CONFIG")
        if not text:
            raise UserError(
                "parameter_server: TF_CONFIG is not set, so nobody says who takes part.",
                "`headrace run JOB --strategy parameter_server --workers N` sets it on one machine; a cluster's "
                f"launcher does on many. {_WANTED}",
            )
        try:
            document = json.loads(text)
            jobs, task = document["cluster"], document["task"]
            addresses = {job: tuple(map(str, jobs[job])) for job in ("chief", "worker", "ps")}
            index = task["index"]
            good = len(addresses["chief"]) == 1 and all(addresses.values()) and isinstance(index, int)
            good = good and not any(isinstance(jobs[job], str) for job in addresses)
            good = good and 0 <= index < len(addresses[task["type"]])
        except (ValueError, LookupError, TypeError):
            good = False
        if not good:
            raise UserError(f"parameter_server: TF_CONFIG is not what TensorFlow wants: {text[:300]}", _WANTED)
        return cls(addresses["worker"], addresses["ps"], task["type"], index)


def serve() -> NoReturn:
    """What a process does whose task is worker or ps: what the coordinator asks of it, until a signal ends it. For the
    main thread; nothing of TensorFlow may have run in the process before.

    Raises:
      UserError: TF_CONFIG is missing, is not what TensorFlow wants, or has another task; or the address cannot be had.
    """
    cluster = Cluster.here()
    if cluster.task == "chief":
        raise UserError("parameter_server: this process is the coordinator, and serves nobody.")
    _set()
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=max(_THREADS, len(os.sched_getaffinity(0))))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    try:
        tf.distribute.Server(resolver.cluster_spec(), cluster.task, cluster.index, protocol="grpc", config=config)
    except tf.errors.OpError as error:
        raise UserError(
            f"parameter_server: {cluster.task} {cluster.index} cannot serve at its address ({first_line(error)}).",
            "Another process may have it: see TF_CONFIG.",
        ) from error
    while True:  # not in TensorFlow's own wait, which a signal does not end
        threading.Event().wait()


def servers_of(distribution: tf.distribute.Strategy) -> list[str]:
    """The devices of the parameter servers of a tf.distribute strategy; none: it has no servers."""
    if not isinstance(distribution, tf.distribute.ParameterServerStrategy):
        return []
    return [device.name for device in tf.config.list_logical_devices("CPU") if "/job:ps/" in device.name]


class Scheduled:
    """A step that a worker takes."""

    def __init__(self, remote: Any, join: Callable[[], None]) -> None:
        self._remote, self._join = remote, join

    def get(self) -> Any:
        """Its result, waited for.

        Raises:
          UserError, others: as `ParameterServerStrategy.schedule`.
        """
        with _told():
            try:
                return self._remote.get()
            except tf.errors.OpError:
                self._join()  # tells what failed first, whatever this step was cancelled for; and that once
                return self._remote.get()  # its worker went before the result was fetched: another took the step


class ParameterServerStrategy(ProcessStrategy):
    """Strategy "parameter_server", in the coordinator's process: TF_CONFIG says who takes part; the others `serve`.

    Dense variables are made in `scope()`, on the servers in turn; embedding tables are on all of them
    (`embeddings.parameter_server`). `schedule` gives a step to whichever worker is free next; `results` does so with
    many. Steps on different workers do not wait for each other: gradients come late by up to as many steps as there are
    workers, so numbers are not those of other strategies, except with one worker and one step at a time (`ahead=1`).

    A worker that ends is done without: its step is taken by another one, or by itself once it is back at its address
    (where several are gone, TensorFlow takes none of them back before all are there). What it had already updated of
    that step is updated again. A server that ends is lost with what it held: the job
    fails, and goes on from its last checkpoint when it is started anew.

    The communicator is the coordinator's alone. topology.ranks: the workers.

    Raises:
      UserError: TF_CONFIG is missing, is not what TensorFlow wants, or has another task than chief; or a worker sees
        several devices.
    """

    def __init__(self, ahead: int = AHEAD) -> None:
        """ahead: how many steps may be scheduled for each worker."""
        cluster = Cluster.here()
        if cluster.task != "chief":
            raise UserError(
                f"parameter_server: this process is {cluster.task} {cluster.index}, and only the coordinator (chief) "
                "runs the job.",
                "A worker or parameter server calls strategies.parameter_server.serve().",
            )
        if ahead < 1:
            raise ValueError("ahead is at least 1")
        _set()
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        with _told():
            self.distribution = tf.distribute.ParameterServerStrategy(resolver)
        if self.distribution.num_replicas_in_sync != 1:
            raise UserError(
                "parameter_server: a worker sees several devices.",
                "One process drives one device: set CUDA_VISIBLE_DEVICES for each.",
            )
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(self.distribution)
        # Destroyed, it would wait for a worker that is gone to come back: it lives until the process has ended.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._coordinator))
        self._most = ahead * len(cluster.workers)
        self._pending: deque[Any] = deque()
        self._functions: dict[Callable[..., Any], Any] = {}
        host = cluster.workers[0].rsplit(":", 1)[0]
        here = sum(address.rsplit(":", 1)[0] == host for address in cluster.workers)
        gpu = bool(tf.config.list_logical_devices("GPU"))
        super().__init__(
            LocalCommunicator(),
            Topology(ranks=len(cluster.workers), ranks_per_host=here, device="GPU" if gpu else local_device()),
        )

    def scope(self) -> AbstractContextManager[Any]:
        return self.distribution.scope()

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """One step in what is scheduled, or, called as it is, here."""
        return self.distribution.run(step, args=arguments)

    def barrier(self) -> None:
        """See `join`: the other processes have nothing of their own to wait for."""
        self.join()

    def schedule(self, step: Callable[..., Any], *arguments: Any) -> Scheduled:
        """Has a worker take one step. Returns at once; but where `ahead` steps for each worker are on their way, it
        first waits for the oldest.

        step: a Python function of tensors, traced once, and the same object each time; it must not touch what lies on
        the coordinator. arguments: nests of tensors, RaggedTensors and what is made into tensors; first dimensions may
        differ from step to step.

        Raises:
          UserError: a parameter server is gone. What any step before raised: those on their way are then given up.
        """
        while len(self._pending) >= self._most:
            self._pending.popleft().get()
        given = tf.nest.map_structure(_tensor, arguments)
        if step not in self._functions:
            signature = tf.nest.map_structure(_any_length, given)
            self._functions[step] = tf.function(
                lambda *values: self.distribution.run(step, args=values), input_signature=signature
            )
        with _told():
            remote = self._coordinator.schedule(self._functions[step], args=given)
        self._pending.append(Scheduled(remote, self.join))
        return self._pending[-1]

    def results(self, step: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Schedules a step with each of `arguments`, drawn as workers become free; yields the results in that order, as
        soon as they and all before them are there. When it ends no step is on its way.

        Raises:
          UserError, others: as `schedule`.
        """
        waiting: deque[Scheduled] = deque()
        try:
            for given in arguments:
                waiting.append(self.schedule(step, *given))
                while len(waiting) > self._most:
                    yield waiting.popleft().get()
            while waiting:
                yield waiting.popleft().get()
        finally:  # also of a caller that wants no more of them
            self.join()

    def join(self) -> None:
        """Returns when every step that was scheduled has been taken.

        Raises:
          UserError, others: as `schedule`.
        """
        self._pending.clear()
        with _told():
            self._coordinator.join()


def _set() -> None:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def _told() -> Iterator[None]:
    """Turns the end of a parameter server into a UserError that says so."""
    try:
        yield
    except tf.errors.UnavailableError as error:
        raise UserError(
            f"parameter_server: a parameter server is gone, with the variables it held ({first_line(error)}).",
            "Start every process anew: the job goes on from its last checkpoint.",
        ) from error


def _tensor(value: Any) -> Any:
    if isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        return value
    return tf.convert_to_tensor(value)


def _any_length(value: Any) -> tf.TypeSpec:
    """The values that a step may be given where this one was."""
    if isinstance(value, tf.RaggedTensor):
        rows = value.row_splits.dtype
        return tf.RaggedTensorSpec([None, *value.shape[1:]], value.dtype, value.ragged_rank, rows)
    if isinstance(value, tf.SparseTensor):
        return tf.SparseTensorSpec([None] * value.shape.rank, value.dtype)
    return tf.TensorSpec([None, *value.shape[1:]] if value.shape.rank else [], value.dtype)
