"""Memory that the C library keeps for the next step instead of giving it back to the system after each."""

from __future__ import annotations

import ctypes

_LARGEST_HEAPED = 32 << 20  # bytes; as large as glibc allows
_KEPT = (1 << 31) - 1  # bytes; likewise, of an int
_GROWTH = 64 << 20  # bytes
# of glibc's mallopt: number and value, by the name of its environment variable
_OPTIONS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, _LARGEST_HEAPED),
    "MALLOC_TRIM_THRESHOLD_": (-1, _KEPT),
    "MALLOC_TOP_PAD_": (-2, _GROWTH),
}


def keep_freed_memory() -> None:
    """Freed memory stays with this process: a training step frees tensors of megabytes that the next one wants again,
    and would pay for each page anew. The process then never looks smaller than it was at its largest. Nothing happens
    where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for number, value in _OPTIONS.values():
            mallopt(number, value)


def give_back_freed_memory() -> None:
    """Freed memory of this process goes back to the system now, as far as whole pages are free: between two pieces of
    work of which the second shall not pay for the first. Nothing happens where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def kept_memory_environment() -> dict[str, str]:
    """The same for a process yet to start."""
    return {name: str(value) for name, (_, value) in _OPTIONS.items()}
