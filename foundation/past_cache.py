"""Whole files written and read past the page cache: no second copy in memory, and what others have there stays."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ALIGNED = 4096  # bytes; what any disk of today takes
_DIRECT = getattr(os, "O_DIRECT", 0)


class AlignedBuffer:
    """Memory as `write_past_cache` wants it, at least `size` bytes once `sized` was asked for them."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    def sized(self, size: int) -> memoryview:
        """As many bytes, rounded up to what a disk takes; what was in it may be lost."""
        wanted = aligned(size)
        if self._memory is None or len(self._memory) < wanted:
            self._memory = mmap.mmap(-1, max(wanted, _ALIGNED))
        return memoryview(self._memory)[:wanted]


def aligned(size: int) -> int:
    """Bytes, rounded up."""
    return -(-size // _ALIGNED) * _ALIGNED


def write_past_cache(path: Path, buffer: memoryview, size: int) -> None:
    """Writes a file of the first `size` bytes of an `AlignedBuffer`, to the disk; through the page cache where a file
    system wants that.

    Raises:
      OSError: as the system says.
    """
    try:
        _write(path, buffer[: aligned(size)], size, _DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL or not _DIRECT:
            raise
        _write(path, buffer[:size], size, 0)


def read_past_cache(path: Path, buffer: memoryview, size: int) -> int:
    """Reads the first `size` bytes of a file into an `AlignedBuffer` that is as large; returns how many there are.

    Raises:
      OSError: as the system says.
    """
    try:
        return _read(path, buffer[: aligned(size)], size, _DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL or not _DIRECT:
            raise
        return _read(path, buffer[:size], size, 0)


def _read(path: Path, buffer: memoryview, size: int, direct: int) -> int:
    found = 0
    with _opened(path, os.O_RDONLY | direct) as file:
        while found < size and (more := os.readv(file, [buffer[found:]])):
            found += more
    return min(found, size)


def _write(path: Path, left: memoryview, size: int, direct: int) -> None:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | direct) as file:
        while left:
            left = left[os.write(file, left) :]
        os.ftruncate(file, size)
        os.fsync(file)
        if not direct and hasattr(os, "posix_fadvise"):  # nobody reads it soon: what others have in memory stays there
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags, 0o666)
    try:
        yield file
    finally:
        os.close(file)
