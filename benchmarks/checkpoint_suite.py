"""Saving and restoring one large table: against the disk, and against TensorFlow's and PyTorch's own checkpoints."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.checkpoint_worker import drop_from_cache
from benchmarks.machine import available_memory, describe
from benchmarks.peers import Peer, peers_command
from benchmarks.report import Report
from foundation.errors import UserError
from foundation.progress import progress

_BLOCK = 1 << 24  # bytes
_WORKER = [sys.executable, "-W", "ignore", "-m", "benchmarks.checkpoint_worker"]
_RESERVE = 3 << 30  # bytes


@dataclass(frozen=True)
class Sizes:
    """rows, dim: of the table, float32, under row-wise Adagrad. rounds: times that it is saved and restored. steps: of
    training, before and after. copies: of the table, that a contender may hold at once."""

    rows: int = 15_750_000
    dim: int = 64
    rounds: int = 3
    steps: int = 20
    copies: int = 2


QUICK = Sizes(rows=50_000, dim=8, rounds=1, steps=3)


def run(quick: bool) -> Report:
    """Measures saves and restores."""
    return measure(QUICK if quick else Sizes(), quick)


def measure(sizes: Sizes, quick: bool) -> Report:
    """`run`, at other sizes."""
    began = time.monotonic()
    table = Table("", "save s", "restore s", "save over disk", "restore over disk", "stall share", title="checkpoint")
    report = Report("checkpoint", _protocol(sizes, quick), describe(), table)
    commands = {
        "headrace": [*_WORKER, "headrace"],
        "tensorflow": [*_WORKER, "tensorflow"],
        "torch": peers_command(Path(__file__).with_name("torch_checkpoint_peer.py")),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("HEADRACE_BENCH_DISK"))))
        meter = stack.enter_context(progress("checkpoint", len(commands), "contenders"))
        for name, command in commands.items():
            meter.advance(note=name)
            try:
                _measure_contender(report, name, command, sizes, folder)
            except UserError as reason:
                if name == "headrace":
                    raise
                report.notes.append(f"{name}: {reason}")
    for peer in ("tensorflow", "torch"):
        if f"{peer}.save_s" in report.metrics:
            for what in ("save", "restore"):
                gain = report.metrics[f"{peer}.{what}_s"] / report.metrics[f"headrace.{what}_s"]
                report.metrics[f"{what}_speed_vs_{peer}"] = gain
    report.metrics["seconds"] = time.monotonic() - began
    return report


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "save": "from the call until all is on the disk (fsync) and committed; nothing else runs",
        "stall": "of that, until training may go on",
        "restore": "into the table that is there, the page cache being empty of its files",
        "disk": "the same number of bytes in one file, written in blocks of 16 MiB with fsync, and read with an empty "
        "page cache; in turn with each save and restore, by another process",
        "training_while_saving": "steps of 65,536 ids of the table, one after the other, until the save is committed; "
        "step time over that before",
        "peers": "tf.train.Checkpoint, torch.distributed.checkpoint: one process, the same arrays, fsync",
        "quick": quick,
        **asdict(sizes),
    }


def _measure_contender(report: Report, name: str, command: list[str], sizes: Sizes, folder: Path) -> None:
    wanted = 4 * sizes.rows * (sizes.dim + 1) * sizes.copies + _RESERVE
    if wanted > available_memory():
        raise UserError(f"it wants {wanted / 1e9:.0f} GB of memory, {available_memory() / 1e9:.0f} GB are free")
    with Peer(command, name) as worker:
        report.machine.update(worker.facts)
        size = worker.ask({"rows": sizes.rows, "dim": sizes.dim})["bytes"]
        taken: dict[str, list[float]] = {key: [] for key in ("save", "restore", "write", "read", "stall")}
        for number in range(sizes.rounds):
            target, plain = folder / f"{name}-{number}", folder / "plain"
            taken["write"].append(_written(plain, size))
            saved = worker.ask({"save": str(target)})
            taken["save"].append(saved["seconds"])
            taken["stall"].append(saved["stall"] / saved["seconds"])
            taken["read"].append(_read(plain))
            taken["restore"].append(worker.ask({"restore": str(target)})["seconds"])
            plain.unlink()
            shutil.rmtree(target)
        medians = {key: float(np.median(values)) for key, values in taken.items()}
        _add(report, name, medians, size)
        if name == "headrace":
            _add_training(report, worker, sizes, folder)


def _add(report: Report, name: str, medians: Mapping[str, float], size: int) -> None:
    save, restore = medians["write"] / medians["save"], medians["read"] / medians["restore"]
    report.table.add_row(
        name,
        f"{medians['save']:.2f}",
        f"{medians['restore']:.2f}",
        f"{save:.2f}",
        f"{restore:.2f}",
        f"{medians['stall']:.3f}",
    )
    report.metrics |= {f"{name}.save_s": medians["save"], f"{name}.restore_s": medians["restore"]}
    report.metrics |= {f"{name}.disk_write_gb_per_s": size / medians["write"] / 1e9}
    report.metrics |= {f"{name}.disk_read_gb_per_s": size / medians["read"] / 1e9}
    prefix = "" if name == "headrace" else f"{name}."
    report.metrics[f"{prefix}save_bandwidth_vs_disk"] = save
    report.metrics[f"{prefix}restore_bandwidth_vs_disk"] = restore
    report.metrics[f"{prefix}training_stall_share"] = medians["stall"]


def _add_training(report: Report, worker: Peer, sizes: Sizes, folder: Path) -> None:
    before = worker.ask({"train": sizes.steps})["step"]
    saving = worker.ask({"train_while_saving": str(folder / "training")})
    after = worker.ask({"train": sizes.steps})["step"]
    report.metrics["step_after_a_save_vs_before"] = after / before
    if "step" in saving:
        report.metrics["step_while_saving_vs_before"] = saving["step"] / before
        report.metrics["save_s_while_training"] = saving["seconds"]
        report.notes.append(
            f"{saving['steps']} training steps while a save was written: {saving['step'] / before:.2f} of their time "
            f"before, {after / before:.2f} after it"
        )


def _written(path: Path, size: int) -> float:
    """Seconds."""
    block = np.random.default_rng(0).bytes(_BLOCK)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        left = size
        while left:
            left -= file.write(block[: min(left, _BLOCK)])
        os.fsync(file.fileno())
    return time.perf_counter() - began


def _read(path: Path) -> float:
    """Seconds."""
    drop_from_cache(path.parent)
    block = bytearray(_BLOCK)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
    return time.perf_counter() - began
