"""The machine a figure was taken on, and how fast it copies memory: the limit no embedding can pass."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = ("headrace", "tensorflow", "tf-keras", "numpy")


def describe() -> dict[str, Any]:
    """What a reader needs to judge the figures: processor, cores, memory, load, versions."""
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "transparent_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }


def available_memory() -> float:
    """Bytes that may be taken without hurting another process; infinite where the system does not say."""
    kilobytes = _first("/proc/meminfo", "MemAvailable")
    return float(kilobytes.split()[0]) * 1024 if kilobytes else float("inf")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Copy:
    """A copy of memory on every core. Call it for the seconds one copy takes; `bytes` are read and written by it."""

    def __init__(self, size: int) -> None:
        """size: bytes read by a copy, far beyond the last cache."""
        self._pool = ThreadPoolExecutor(cores())
        self._source = np.array_split(np.ones(size // 4, np.float32), cores())
        self._target = np.array_split(np.zeros(size // 4, np.float32), cores())
        self.bytes = 2 * (size // 4) * 4

    def __call__(self, number: int) -> float:
        start = time.perf_counter()
        list(self._pool.map(np.copyto, self._target, self._source))
        return time.perf_counter() - start


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _first(path: str, key: str) -> str | None:
    """The value of the first line `key : value` of a file, if any."""
    lines = (_read(path) or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
