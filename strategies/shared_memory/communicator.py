"""The communicator of ranks that share memory: compiled ops that copy to and from files which all ranks have mapped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from foundation.native_library import NativeLibrary
from foundation.tf import tf
from strategies.calls import CallNames

LIBRARY = NativeLibrary("exchange", Path(__file__).with_name("native"))


@cache
def ops() -> Any:
    """The module of the compiled ops.

    Raises:
      UserError: they cannot be built or loaded.
    """
    return LIBRARY.load()


class SharedMemoryCommunicator:
    """Ranks that are processes of one machine, on its CPU. Any plain numbers, any sizes, also of no rows.

    Calls are paired by name; see `CallNames`. Each name is a channel (native/group.cc), whose calls follow each other:
    a channel is a resource to TensorFlow, so a loop's next round and a function's next call wait for it, and no call is
    folded, merged or dropped. Calls of different names may be in flight together, in any order. What differs between
    ranks that call the same is an error on each of them. Eager calls of a kind share a name, and so do functions of one
    name: one thread at a time calls them.

    Sums are taken in rank order: the same bits on all ranks and in every run; 16-bit floats are summed in 32.

    Raises, in every call:
      tf.errors.InvalidArgumentError: the ranks do not call the same, `sizes` do not cover the rows, or another rank
        found something wrong with its own.
      tf.errors.InternalError: a rank's process is gone. A rank that is slow, or stopped, is waited for.
      tf.errors.ResourceExhaustedError: no memory, or more than 4,096 names.
    """

    def __init__(self, rank: int, files: Sequence[int], file_bytes: int) -> None:
        """files: descriptors of each rank's file (files.py), to stay open as long as the process; file_bytes: how long
        each is.

        Raises:
          UserError: the compiled ops cannot be built or loaded.
          tf.errors.ResourceExhaustedError: the files cannot be mapped.
        """
        self.rank, self.size = rank, len(files)
        self._ops, self._names = ops(), CallNames()
        self._channels: dict[str, tf.Tensor] = {}
        with tf.init_scope(), tf.device("CPU:0"):
            self._group = int(self._ops.headrace_shared_group(files=list(files), rank=rank, file_bytes=file_bytes))

    def all_to_all(self, rows: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Communicator`."""
        rows = tf.convert_to_tensor(rows)
        received = self._ops.headrace_shared_all_to_all(
            channel=self._channel("all_to_all"), rows=rows, sizes=tf.cast(sizes, tf.int64)
        )
        received.set_shape([None, *rows.shape[1:]])
        return received

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        gathered = self._ops.headrace_shared_all_gather(channel=self._channel("all_gather"), value=value)
        gathered.set_shape([value.shape[0] and value.shape[0] * self.size, *value.shape[1:]])
        return gathered

    def all_reduce(self, value: tf.Tensor) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        total = self._ops.headrace_shared_all_reduce(channel=self._channel("all_reduce"), value=value)
        total.set_shape(value.shape)
        return total

    def broadcast(self, value: tf.Tensor, root: int = 0) -> tf.Tensor:
        if not 0 <= root < self.size:
            raise ValueError(f"root is {root}; ranks are 0 to {self.size - 1}")
        value = tf.convert_to_tensor(value)
        same = self._ops.headrace_shared_broadcast(channel=self._channel("broadcast"), value=value, root=root)
        same.set_shape(value.shape)
        return same

    def _channel(self, kind: str) -> tf.Tensor:
        name = f"eager.{kind}" if tf.executing_eagerly() else self._names.next(kind)
        if name not in self._channels:
            with tf.init_scope(), tf.device("CPU:0"):
                self._channels[name] = self._ops.headrace_shared_channel(group=self._group, label=name)
        return self._channels[name]
