"""Several processes, one device each, joined by Horovod: `horovodrun -np N headrace run JOB --strategy horovod`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from foundation.errors import UserError, first_line
from foundation.tf import tf
from strategies.base import ProcessStrategy, Topology, local_device
from strategies.calls import CallNames

# Taken where the user has not set them. A collective waits for Horovod's next cycle, ms. Fused reductions would be
# summed in an order that depends on which were ready together: not the same bits in every run.
SETTINGS = {"HOROVOD_CYCLE_TIME": "0.5", "HOROVOD_FUSION_THRESHOLD": "0"}


def load() -> Any:
    """The module `horovod.tensorflow`, not yet initialised.

    Raises:
      UserError: Horovod is not installed, or was built for another TensorFlow.
    """
    try:
        return importlib.import_module("horovod.tensorflow")
    except ModuleNotFoundError as error:
        raise UserError(
            f"horovod: Horovod is not installed here ({first_line(error)}).",
            "`make horovod` builds it for this TensorFlow (a C++ compiler and some minutes).",
        ) from error
    except (ImportError, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"horovod: Horovod is installed but does not load ({first_line(error)}).",
            "It was built for another TensorFlow: `make horovod` builds it for this one.",
        ) from error


class HorovodCommunicator:
    """The ranks that horovodrun started.

    Horovod pairs the ranks' calls by name; see `CallNames`. Calls of one function may be in flight together; a loop's
    next round, and the function's next call, begin when all are done. Eager calls of a kind share one name: one thread
    at a time makes them.
    """

    def __init__(self, hvd: Any) -> None:
        """hvd: `load()`, initialised."""
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self._hvd = hvd
        self._names = CallNames()
        with tf.device("CPU:0"):
            self._done = tf.Variable(0, trainable=False, dtype=tf.int64, name="horovod/done")

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Communicator`.

        Raises:
          tf.errors.InvalidArgumentError: `sizes` do not cover the rows, or are not what another rank sends by.
        """
        rows, sizes = tf.convert_to_tensor(rows), tf.convert_to_tensor(sizes)
        count = tf.shape(rows, sizes.dtype)[0]
        # Horovod itself would leave the rest unsent.
        covered = _assert(
            tf.equal(tf.reduce_sum(sizes[self.rank]), count), "sizes do not cover the rows:", sizes, count
        )

        def exchange(value: tf.Tensor, **name: Any) -> tf.Tensor:
            with tf.control_dependencies(covered):
                received, came = self._hvd.alltoall(value, splits=tf.cast(sizes[self.rank], tf.int32), **name)
            told = tf.cast(sizes[:, self.rank], tf.int32)
            with tf.control_dependencies(
                _assert(tf.reduce_all(tf.equal(came, told)), "another rank has other sizes:", sizes, came)
            ):
                return tf.identity(received)

        return self._call("all_to_all", exchange, rows, [None, *rows.shape[1:]])

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        length = value.shape[0] and value.shape[0] * self.size
        return self._call("all_gather", self._hvd.allgather, value, [length, *value.shape[1:]])

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        """16-bit floats are summed as float32."""
        value = tf.convert_to_tensor(value)
        wide = tf.cast(value, tf.float32) if value.dtype in (tf.bfloat16, tf.float16) else value

        def reduce(value: tf.Tensor, **name: Any) -> tf.Tensor:
            return self._hvd.allreduce(value, op=self._hvd.Sum, **name)

        return tf.cast(self._call("all_reduce", reduce, wide, value.shape), value.dtype)

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        if not 0 <= root < self.size:
            raise ValueError(f"root is {root}; ranks are 0 to {self.size - 1}")
        value = tf.convert_to_tensor(value)

        def broadcast(value: tf.Tensor, **name: Any) -> tf.Tensor:
            return self._hvd.broadcast(value, root_rank=root, **name)

        return self._call("broadcast", broadcast, value, value.shape)

    def _call(self, kind: str, exchange: Callable[..., tf.Tensor], value: tf.Tensor, shape: Any) -> tf.Tensor:
        """One call of Horovod: `exchange(value, name=...)`, whose result has the static `shape`."""
        bits = value.dtype == tf.bfloat16  # which Horovod does not know
        if bits:
            value = tf.bitcast(value, tf.uint16)
        if tf.executing_eagerly():
            result = exchange(value)
        else:
            # TensorFlow takes Horovod's ops for pure functions: it folds one of constants, merges two alike and drops
            # one that nobody reads, on one rank perhaps and not on another. An identity that counts as an op with
            # effects, before and behind, keeps it from all three.
            value = tf.raw_ops.DebugIdentityV2(input=value)
            with tf.name_scope("horovod/"):
                result = exchange(value, name=self._names.next(kind), ignore_name_scope=True)
            result = tf.raw_ops.DebugIdentityV2(input=result)
            # What writes one variable runs in the order of the program: the next round of a loop, the next call of the
            # function, wait for this, as two calls of one name may not be in flight together.
            with tf.control_dependencies([result]):
                self._done.assign_add(1, read_value=False)
        result = tf.bitcast(result, tf.bfloat16) if bits else result
        result.set_shape(shape)
        return result


class HorovodStrategy(ProcessStrategy):
    """Strategy "horovod". Every variable is this process's own: dense ones begin alike because their seeds are.

    Raises:
      UserError: Horovod is not installed or does not load.
    """

    def __init__(self) -> None:
        hvd = load()
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        hvd.init()
        topology = Topology(ranks=hvd.size(), ranks_per_host=hvd.local_size(), device=local_device())
        super().__init__(HorovodCommunicator(hvd), topology)


def _assert(condition: tf.Tensor, *data: Any) -> list[tf.Operation]:
    """The check as an op to depend on; eagerly it is made at once."""
    made = tf.raw_ops.Assert(condition=condition, data=list(data), summarize=16)
    return [] if made is None else [made]
