"""CRC-32C at the speed of memory, where there is a compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np

from embeddings.kernels.build import LIBRARY
from embeddings.kernels.choice import compiled

Checksum = Callable[[np.ndarray], int]


def crc32c() -> Checksum | None:
    """The checksum of an array's bytes, which lie together; None: the compiled kernels are not to be had."""
    return _native() if compiled() else None


@cache
def _native() -> Checksum:
    function = ctypes.CDLL(str(LIBRARY.path())).headrace_crc32c
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_uint32

    def of(values: np.ndarray) -> int:
        assert values.flags.c_contiguous
        return int(function(values.ctypes.data, values.nbytes))

    return of
