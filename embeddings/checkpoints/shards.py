"""Files of zarr 3's `sharding_indexed` codec, written and read whole, past the page cache: any zarr reader takes them.

A file is chunks one behind the other, each its bytes and their CRC-32C, and an index: of each chunk of the file's grid
offset and size, two uint64, both of all ones where there is none; and the index' CRC-32C. Little-endian.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embeddings.kernels.checksum import Checksum, crc32c
from foundation.past_cache import AlignedBuffer, read_past_cache, write_past_cache

_NONE = np.uint64(2**64 - 1)
_CHECKSUM = np.dtype("<u4")


_INDEX_ENTRY = 16  # bytes

_buffers = threading.local()


def checksum_for_shards() -> Checksum | None:
    """What `write_shard` and `read_shard` need; None: they cannot be used here."""
    return crc32c() if sys.byteorder == "little" else None


def write_shard(path: Path, values: np.ndarray, chunk: Sequence[int], grid: Sequence[int], checksum: Checksum) -> None:
    """Writes a file, to the disk. values: what the array has of it, which at its end may be less than `grid` chunks
    along a dimension. chunk: shape of a chunk; beyond the values it is zeros.

    Raises:
      OSError: as the system says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = [-(-size // length) for size, length in zip(values.shape, chunk, strict=True)]
    of_chunk = math.prod(chunk) * values.itemsize
    index_at = math.prod(counts) * (of_chunk + _CHECKSUM.itemsize)
    index_bytes = math.prod(grid) * _INDEX_ENTRY
    buffer = _buffer().sized(index_at + index_bytes + _CHECKSUM.itemsize)
    flat = np.frombuffer(buffer, np.uint8)
    index = np.full((*grid, 2), _NONE, "<u8")
    offset = 0
    for place in itertools.product(*map(range, counts)):
        end = offset + of_chunk
        _fill(flat[offset:end].view(values.dtype).reshape(chunk), values, place)
        index[place] = offset, of_chunk + _CHECKSUM.itemsize
        flat[end : end + _CHECKSUM.itemsize] = _sum(checksum, flat[offset:end])
        offset = end + _CHECKSUM.itemsize
    end = index_at + index_bytes
    flat[index_at:end] = index.view(np.uint8).reshape(-1)
    flat[end : end + _CHECKSUM.itemsize] = _sum(checksum, flat[index_at:end])
    write_past_cache(path, buffer, end + _CHECKSUM.itemsize)


def read_shard(
    path: Path, shape: Sequence[int], dtype: np.dtype, chunk: Sequence[int], grid: Sequence[int], checksum: Checksum
) -> np.ndarray:
    """What the array has of a file, of that shape.

    Raises:
      ValueError: it is damaged.
      OSError: as the system says.
    """
    of_chunk, index_bytes = math.prod(chunk) * dtype.itemsize, math.prod(grid) * _INDEX_ENTRY
    most = math.prod(grid) * (of_chunk + _CHECKSUM.itemsize) + index_bytes + _CHECKSUM.itemsize
    buffer = _buffer().sized(most)
    flat = np.frombuffer(buffer, np.uint8)[: read_past_cache(path, buffer, most)]
    index_at = len(flat) - index_bytes - _CHECKSUM.itemsize
    if index_at < 0 or not _holds(checksum, flat[index_at:]):
        raise ValueError("its index is not what was written")
    index = flat[index_at : index_at + index_bytes].view("<u8").reshape(*grid, 2)
    values = np.empty(shape, dtype)
    for place in itertools.product(*(range(-(-size // n)) for size, n in zip(shape, chunk, strict=True))):
        offset, size = map(int, index[place])
        if offset + size > index_at or size != of_chunk + _CHECKSUM.itemsize:
            raise ValueError(f"chunk {place} is not there")
        found = flat[offset : offset + size]
        if not _holds(checksum, found):
            raise ValueError(f"chunk {place} is not what was written")
        part = _part(values, place, chunk)
        part[...] = found[:of_chunk].view(dtype).reshape(chunk)[tuple(map(slice, part.shape))]
    return values


def _buffer() -> AlignedBuffer:
    """This thread's."""
    if not hasattr(_buffers, "own"):
        _buffers.own = AlignedBuffer()
    return _buffers.own


def _fill(chunk: np.ndarray, values: np.ndarray, place: tuple[int, ...]) -> None:
    """Copies what the chunk at a place has of the values; beyond them it is zeros."""
    part = _part(values, place, chunk.shape)
    if part.shape != chunk.shape:
        chunk[...] = 0
    chunk[tuple(map(slice, part.shape))] = part


def _part(values: np.ndarray, place: tuple[int, ...], chunk: Sequence[int]) -> np.ndarray:
    return values[tuple(slice(p * length, (p + 1) * length) for p, length in zip(place, chunk, strict=True))]


def _sum(checksum: Checksum, data: np.ndarray) -> np.ndarray:
    return np.array([checksum(data)], _CHECKSUM).view(np.uint8)


def _holds(checksum: Checksum, data: np.ndarray) -> bool:
    """Whether bytes are followed by their checksum."""
    return bool((_sum(checksum, data[: -_CHECKSUM.itemsize]) == data[-_CHECKSUM.itemsize :]).all())
