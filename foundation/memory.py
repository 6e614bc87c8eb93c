"""Memory that the C library keeps for the next step instead of giving it back to the system after each."""

from __future__ import annotations

import ctypes
from pathlib import Path

_LARGEST_HEAPED = 32 << 20  # bytes; as large as glibc allows
_KEPT = (1 << 31) - 1  # bytes; likewise, of an int
_GROWTH = 64 << 20  # bytes
_HUGE = 2 << 20  # bytes of a huge page
_COLLAPSE = 25  # of madvise: MADV_COLLAPSE
_IN_USE = 0.9  # of a mapping that is worth it
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


def use_huge_pages(least: int = 16 << 20) -> None:
    """What this process holds in mappings of `least` bytes and more goes into pages of 2 MB, now: reads at random
    places of hundreds of megabytes otherwise spend as long on finding the page as on the read (of an index of a million
    vectors, twice as many queries a second were measured). Mappings that are not mostly in use stay as they are, so
    that nothing grows. It takes about 2 s a gigabyte; nothing happens where the system is not Linux 6.1 or later."""
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return
    start = stop = 0
    for line in lines:
        key, *rest = line.split()
        if not key.endswith(":"):  # the line that begins a mapping: range, permissions, offset, device, inode, path
            anonymous = rest[0].startswith("rw") and rest[3] == "0" and rest[4:] in ([], ["[heap]"])
            ends = [int(end, 16) for end in key.split("-")] if anonymous else [0, 0]
            start, stop = -(-ends[0] // _HUGE) * _HUGE, ends[1] // _HUGE * _HUGE
        elif key == "Rss:" and stop - start >= least and int(rest[0]) * 1024 >= _IN_USE * (stop - start):
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _COLLAPSE)
