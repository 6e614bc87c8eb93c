"""Files of zarr 3's `sharding_indexed` codec, written as they lie in memory: any zarr reader takes them.

A file is chunks one behind the other, each its bytes and their CRC-32C, and an index: of each chunk of the file's grid
offset and size, two uint64, both of all ones where there is none; and the index' CRC-32C. Little-endian.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from embeddings.kernels.checksum import Checksum, crc32c

_AT_ONCE = 512  # buffers that the system takes in one call; it may take 1,024
_NONE = np.uint64(2**64 - 1)
_CHECKSUM = np.dtype("<u4")


def checksum_for_shards() -> Checksum | None:
    """What `write_shard` needs; None: it cannot be used here."""
    return crc32c() if sys.byteorder == "little" and hasattr(os, "writev") else None


def write_shard(path: Path, values: np.ndarray, chunk: Sequence[int], grid: Sequence[int], checksum: Checksum) -> None:
    """Writes a file, to the disk. values: what the array has of it, which at its end may be less than `grid` chunks
    along a dimension. chunk: shape of a chunk; beyond the values it is zeros.

    Raises:
      OSError: as the system says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    index = np.full((*grid, 2), _NONE, "<u8")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        offset, waiting = 0, list[np.ndarray]()
        for place, data in _chunks(values, chunk):
            sum_of = np.array([checksum(data)], _CHECKSUM)
            index[place] = offset, data.nbytes + sum_of.nbytes
            offset += data.nbytes + sum_of.nbytes
            waiting += [data, sum_of]
            if len(waiting) >= _AT_ONCE:
                _write(file, waiting)
                waiting = []
        _write(file, [*waiting, index, np.array([checksum(index)], _CHECKSUM)])
        os.fsync(file)
        if hasattr(os, "posix_fadvise"):  # nobody reads it soon: what others have in memory stays there
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _chunks(values: np.ndarray, chunk: Sequence[int]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """(place in the grid, the chunk's bytes together), those that have something of the values."""
    counts = [-(-size // length) for size, length in zip(values.shape, chunk, strict=True)]
    for place in itertools.product(*map(range, counts)):
        part = values[tuple(slice(p * length, (p + 1) * length) for p, length in zip(place, chunk, strict=True))]
        if part.shape != tuple(chunk):
            whole = np.zeros(chunk, values.dtype)
            whole[tuple(map(slice, part.shape))] = part
            part = whole
        yield place, np.ascontiguousarray(part)


def _write(file: int, buffers: Sequence[np.ndarray]) -> None:
    left = [buffer.view(np.uint8).reshape(-1).data for buffer in buffers]
    while left:
        written = os.writev(file, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
