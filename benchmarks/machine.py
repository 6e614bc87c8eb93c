"""The machine a figure was taken on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def busy_seconds() -> float:
    """Seconds that cores have worked since the machine started, for whomever; 0 where the system does not say."""
    fields = ((_read("/proc/stat") or "").splitlines() or [""])[0].split()[1:]
    if not fields:
        return 0.0
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = (float(ticks) for ticks in fields[:8])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


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
