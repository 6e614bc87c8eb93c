"""`headrace doctor`: what this installation can do, found by trying."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foundation.errors import first_line


@dataclass(frozen=True)
class Check:
    """One thing tried. needed: headrace cannot work without it. remedy: what to do when it fails."""

    name: str
    attempt: Callable[[], str]
    needed: bool
    remedy: str


def examine() -> bool:
    """Prints a table of everything tried; returns whether all that is needed works."""
    table = Table("", "what", "found", title="headrace doctor")
    well = True
    for check in _checks():
        try:
            mark, found = "[green]yes[/]", check.attempt()
        except Exception as error:  # whatever an import can raise is the finding
            reason = first_line(error)
            mark = "[red]no[/]" if check.needed else "[yellow]no[/]"
            found = f"{reason}\n{check.remedy}"
            well = well and not check.needed
        table.add_row(mark, check.name, Text(found))
    Console().print(table)
    return well


def _checks() -> list[Check]:
    setup = "Run `make setup`."
    return [
        Check("Python 3.10 to 3.12", _python, True, "Set HEADRACE_PYTHON to one and run `make setup`."),
        Check("TensorFlow 2.20 with Keras 2", _tensorflow, True, setup),
        Check("devices", _devices, True, setup),
        Check("TensorFlow Recommenders", lambda: _version("tensorflow_recommenders"), True, setup),
        Check("TensorFlow Ranking", _ranking, True, setup),
        Check("ScaNN", _scann, True, setup),
        Check("Parquet (pyarrow)", lambda: _version("pyarrow"), True, setup),
        Check(
            "HTTP service (fastapi, uvicorn)",
            lambda: _version("fastapi", "uvicorn"),
            False,
            "pip install -e '.[serve]'",
        ),
        Check("Ray", lambda: _version("ray"), False, "pip install -e '.[ray]' (used by a later release)"),
        Check("Horovod", _horovod, False, "`make horovod` builds it (for strategy 'horovod')."),
        Check("compiled kernels", _kernels, False, "Tables are looked up and updated by TensorFlow's own ops, slower."),
        Check("compiled exchange", _exchange, False, "Ranks of one machine use TensorFlow's collectives, slower."),
        Check("cores and memory", _machine, True, ""),
    ]


def _python() -> str:
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        raise RuntimeError(f"this is Python {platform.python_version()}")
    return f"{platform.python_version()} at {sys.executable}"


def _tensorflow() -> str:
    from foundation.tf import tf

    import tf_keras  # isort: skip - after the gateway, which keeps TensorFlow quiet

    if not tf.__version__.startswith("2.20."):
        raise RuntimeError(f"this is TensorFlow {tf.__version__}")
    return f"{tf.__version__}, Keras {tf_keras.__version__}"


def _devices() -> str:
    from foundation.tf import tf

    return ", ".join(device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices())


def _ranking() -> str:
    from ranking import tfr

    loss = tfr.losses.ApproxNDCGLoss()([[1.0, 0.0]], [[0.6, 0.8]])
    return f"{tfr.version}; ApproxNDCG of a two-item list is {float(loss):.3f}"


def _scann() -> str:
    import numpy as np

    from retrieval.config import IndexConfig
    from retrieval.index import Index

    vectors = np.random.default_rng(0).normal(size=(2_000, 16)).astype(np.float32)
    index = Index.build(vectors, IndexConfig(brute_force_below=0), seed=0)
    found, _ = index.search(vectors[:50], 10)
    return f"{_version('scann')}; an index of 2,000 vectors answers 50 queries ({(found >= 0).mean():.0%} filled)"


def _horovod() -> str:
    from strategies.horovod import load

    return f"{_version('horovod')}, gloo{', NCCL' if load().nccl_built() else ''}"


def _kernels() -> str:
    from embeddings.kernels import compiled
    from embeddings.kernels.build import LIBRARY

    path = LIBRARY.path()
    if not compiled():
        raise RuntimeError(f"{path} is there, HEADRACE_KERNELS is {os.environ.get('HEADRACE_KERNELS', 'auto')}")
    return str(path)


def _exchange() -> str:
    from strategies.shared_memory.communicator import LIBRARY
    from strategies.shared_memory.files import OwnFile

    LIBRARY.load()
    OwnFile().close()
    return f"{LIBRARY.path()}; HEADRACE_EXCHANGE is {os.environ.get('HEADRACE_EXCHANGE', 'auto')}"


def _machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} cores, {memory / 2**30:.1f} GiB"


def _version(*modules: str) -> str:
    from importlib.metadata import version

    for module in modules:
        importlib.import_module(module)
    return ", ".join(f"{module} {version(module.replace('_', '-'))}" for module in modules)
