"""Variables as they are at a moment, to be saved while training goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from embeddings.checkpoints.variables import AT_WORK, BYTES_AT_ONCE, addresses_of, row_bytes, rows_of, taken
from foundation.frozen import FrozenMemory
from foundation.progress import say_once
from foundation.tf import tf

_RESERVE = 1 << 30  # bytes that are left for others where variables are copied


class Image(Protocol):
    """What a save reads. holds: it stays as it is while the variables change. What `rows` gives is the caller's until
    AT_WORK more are asked for."""

    holds: bool

    def rows(self, variable: tf.Variable, numbers: np.ndarray) -> np.ndarray:
        """The rows so numbered, [..., width] or [...]: numbers' shape comes first."""

    def close(self) -> None:
        """Gives back what it takes."""


class Live:
    """The variables themselves: nothing may change until the save is done."""

    holds = False

    def rows(self, variable: tf.Variable, numbers: np.ndarray) -> np.ndarray:
        return taken(variable, numbers)

    def close(self) -> None:
        pass


class Copied:
    """Copies."""

    holds = True

    def __init__(self, variables: Sequence[tf.Variable]) -> None:
        self._copies = {id(variable): variable.numpy() for variable in variables}

    def rows(self, variable: tf.Variable, numbers: np.ndarray) -> np.ndarray:
        return self._copies[id(variable)][numbers]

    def close(self) -> None:
        self._copies.clear()


class Forked:
    """The memory of this process frozen in a child, which shares each page until it changes: nothing is copied before
    that, and of a table that a save outlasts only what is trained meanwhile."""

    holds = True

    def __init__(self, variables: Sequence[tf.Variable], addresses: Sequence[int]) -> None:
        self._where = {
            id(variable): (address, rows_of(variable), variable.dtype.as_numpy_dtype, tuple(variable.shape[1:]))
            for variable, address in zip(variables, addresses, strict=True)
        }
        self._memory = FrozenMemory(BYTES_AT_ONCE, kept=AT_WORK)

    def rows(self, variable: tf.Variable, numbers: np.ndarray) -> np.ndarray:
        address, count, dtype, shape = self._where[id(variable)]
        found = self._memory.rows(address, count, np.dtype(dtype), shape, numbers.reshape(-1).astype(np.int64))
        return found.reshape(*numbers.shape, *shape)

    def close(self) -> None:
        self._memory.close()


def image_of(variables: Sequence[tf.Variable]) -> Image:
    """The variables as they are now: in a frozen copy of the process where the compiled kernels say where they lie,
    else in copies where there is memory for them, else themselves."""
    if not variables:
        return Copied(())
    if any(tf.DeviceSpec.from_string(variable.device).job == "ps" for variable in variables):
        return Live()  # a parameter server's lie elsewhere
    addresses = addresses_of(variables)
    if addresses is not None:
        try:
            return Forked(variables, addresses)
        except OSError as error:
            say_once(f"checkpoints: no snapshot by fork here ({error})")
    size = sum(rows_of(variable) * row_bytes(variable) for variable in variables)
    if size + _RESERVE <= _available_memory():
        return Copied(variables)
    say_once(f"checkpoints: no memory for a copy of {size:,} bytes of tables: training waits while they are written")
    return Live()


def _available_memory() -> int:
    """Bytes."""
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
