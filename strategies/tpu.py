"""A TPU, or a slice of them, driven by one process: a Cloud TPU VM."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from foundation.errors import UserError, first_line
from foundation.tf import tf
from strategies.base import Communicator, Topology
from strategies.mirrored import Distributed, of_first_rank

SECONDS = 30.0  # that any of Cloud TPU's services is waited for
_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")  # how a TPU VM shows its chips
_NEEDS = (
    "Strategy 'tpu' runs on a Cloud TPU VM with tensorflow-tpu 2.20.0 installed in place of tensorflow. Set TPU_NAME: "
    "'local' where the machine's own chips are meant; or the slice's name, with TPU_ZONE and TPU_PROJECT; or "
    "grpc://HOST:PORT,... of its workers."
)
_Result = TypeVar("_Result")


class TpuCommunicator:
    """Exchange between a TPU's replicas, within a step. A replica's `rank` is known there, and where its step is begun:
    on the host, where nothing is exchanged but how many rows each has, which is the same for all.
    """

    def __init__(self, distribution: tf.distribute.Strategy) -> None:
        self.size = distribution.num_replicas_in_sync
        self._begun: int | None = None

    @property
    def rank(self) -> Any:
        """Raises:
        RuntimeError: no replica runs this, and none is begun.
        """
        return self._begun if self._begun is not None else self._replica().replica_id_in_sync_group

    @contextmanager
    def begun_as(self, rank: int) -> Iterator[None]:
        """What the block does on the host is that replica's."""
        self._begun = rank
        try:
            yield
        finally:
            self._begun = None

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        if self._begun is not None:
            return tf.tile(value, [self.size, *[1] * (value.shape.rank - 1)])
        return value if self.size == 1 else self._replica().all_gather(value, 0)

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        if self._begun is not None:
            return value * self.size
        return value if self.size == 1 else self._replica().all_reduce("SUM", value)

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Communicator`. Shapes are fixed, so all sizes are one, and `sizes` is not asked."""
        if self.size == 1:
            return rows
        by_receiver = tf.stack(tf.split(rows, self.size))[tf.newaxis]  # [1, receivers, n, ...]
        mine = tf.gather(self._replica().all_gather(by_receiver, 0), self.rank, axis=1)
        return tf.concat(tf.unstack(mine, self.size), 0)

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        return self.all_gather(value[tf.newaxis])[root]

    def _replica(self) -> Any:
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync != self.size:
            raise RuntimeError("a TPU's replicas exchange only within a step: call this from what strategy.run runs")
        return context


class TpuStrategy:
    """Strategy "tpu". TPU_NAME says which: see the error that its absence gives. One process drives all cores, each a
    replica and a rank; tables are the embedding hardware's (`embeddings.tpu`).

    A step takes a batch whose features `TpuEmbedding.prepare` has made ready on the host: `run_begun` begins it there.
    Its gradients sum over replicas, so a replica's loss is its share of the global batch's.

    Raises:
      UserError: there is no TPU to be had here, and what is wanted. No service is waited for longer than SECONDS.
    """

    fixed_shapes = True
    is_chief = True

    def __init__(self, distribution: tf.distribute.Strategy | None = None) -> None:
        """distribution: the TPUStrategy; None: that of the TPU which TPU_NAME says."""
        self.distribution = _started() if distribution is None else distribution
        ranks, hosts = self.distribution.num_replicas_in_sync, self.distribution.extended.num_hosts
        self.topology = Topology(ranks, ranks // hosts, "TPU")
        self._exchange = TpuCommunicator(self.distribution)
        self.communicator: Communicator = self._exchange

    @property
    def ranks(self) -> range:
        """Those of this process: all there are."""
        return range(self.topology.ranks)

    def scope(self) -> AbstractContextManager[Any]:
        return self.distribution.scope()

    def distribute(self, batches: Iterable[Iterable[Any]]) -> Iterator[Any]:
        """As MirroredStrategy's: for each rank in turn its parts of the global batches (`part_of` makes them of whole
        ones), all of one shape."""
        return Distributed(self.distribution, list(batches))

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """The step on every core; returns what the first one's gave."""
        # else TensorFlow pads the features, and the embedding hardware wants them as they were given
        options = tf.distribute.RunOptions(experimental_enable_dynamic_batch_size=False)
        return of_first_rank(self.distribution, self.distribution.run(step, args=arguments, options=options))

    def run_begun(self, begin: Callable[..., Any], finish: Callable[..., Any], batch: Any, step: Any) -> Any:
        """`begin` on the host, replica by replica: the embedding hardware takes only what a step is called with."""
        begun, form = [], None
        for rank in self.ranks:
            part = tf.nest.map_structure(lambda value, rank=rank: self._of_rank(value, rank), batch)
            with self._exchange.begun_as(rank):
                form = begin(part, step)
            begun.append(tf.nest.flatten(form, expand_composites=True))
        parts = self.distribution.experimental_distribute_values_from_function(
            lambda context: begun[context.replica_id_in_sync_group]
        )

        def finished(flat: list[tf.Tensor], step: tf.Tensor) -> Any:
            return finish(tf.nest.pack_sequence_as(form, flat, expand_composites=True), step)

        return self.run(finished, parts, step)

    def _of_rank(self, value: Any, rank: int) -> Any:
        return self.distribution.experimental_local_results(value)[rank]

    def barrier(self) -> None:
        """One process: it is there."""


def is_tpu(distribution: tf.distribute.Strategy) -> bool:
    """Whether a tf.distribute strategy is a TPU's."""
    return isinstance(distribution, tf.distribute.TPUStrategy | tf.distribute.experimental.TPUStrategy)


def part_of(batch: Any, replica: int, replicas: int) -> Any:
    """A replica's rows of a batch: any nest of tensors and RaggedTensors of as many rows, each replica's as many, in
    their order, their number known to TensorFlow.

    Raises:
      UserError: the rows cannot be shared out equally, which a TPU's fixed shapes want.
    """

    def part(value: Any) -> Any:
        value = value if isinstance(value, tf.RaggedTensor) else tf.convert_to_tensor(value)
        rows = int(value.nrows()) if isinstance(value, tf.RaggedTensor) else int(tf.shape(value)[0])
        if rows % replicas:
            raise UserError(
                f"tpu: a batch of {rows} rows for {replicas} cores.",
                f"Take a batch size that {replicas} divides; the last, smaller batch is dropped or filled up.",
            )
        each = rows // replicas
        return value[replica * each : (replica + 1) * each]

    return tf.nest.map_structure(part, batch, expand_composites=False)


def _started() -> tf.distribute.TPUStrategy:
    resolver = _resolver(os.environ)
    try:
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, RuntimeError) as error:
        raise _none_here(f"TensorFlow cannot start it ({first_line(error)})") from error


def _resolver(environment: Mapping[str, str], seconds: float = SECONDS) -> Any:
    """Who the TPU's workers are; each has answered."""
    if not _installed("tensorflow-tpu"):
        raise _none_here("the TensorFlow installed is not tensorflow-tpu")
    name = environment.get("TPU_NAME") or environment.get("KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS")
    if not name:
        raise _none_here("TPU_NAME is not set")
    if name == "local" and not any(list(Path("/").glob(chips.lstrip("/"))) for chips in _CHIPS):
        raise _none_here(f"TPU_NAME is 'local', and this machine has no TPU ({', '.join(_CHIPS)})")
    return workers_of(name, environment.get("TPU_ZONE"), environment.get("TPU_PROJECT"), seconds)


def workers_of(name: str, zone: str | None, project: str | None, seconds: float) -> Any:
    """A TPUClusterResolver whose workers have all answered.

    Raises:
      UserError: Google's services do not know them, or one of all these did not answer in so many seconds.
    """

    def ask() -> Any:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name, zone=zone, project=project)
        for addresses in resolver.cluster_spec().as_dict().values():
            for address in addresses:
                _knock(address, seconds)
        return resolver

    try:
        return _within(seconds, ask)
    except UserError:
        raise
    except TimeoutError as error:
        raise _none_here(f"TPU_NAME is '{name}', and it was not found in {seconds:g} s") from error
    except Exception as error:  # urllib's, Google's client's, TensorFlow's own
        raise _none_here(f"TPU_NAME is '{name}', and where that is was not found ({first_line(error)})") from error


def _knock(address: str, seconds: float) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except (OSError, ValueError) as error:
        raise _none_here(f"its worker {address} does not answer ({first_line(error)})") from error


def _within(seconds: float, ask: Callable[[], _Result]) -> _Result:
    """What `ask` returns or raises. It has no limit of its own, so it is left behind, in a thread that ends with the
    process, where it takes longer."""
    answers: list[_Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="tpu-resolver", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _none_here(reason: str) -> UserError:
    return UserError(f"tpu: there is no TPU to be had here: {reason}.", _NEEDS)
