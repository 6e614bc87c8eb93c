"""One training step of an embedding table: lookup of a batch's ids, and the update of the rows looked up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.contenders import LEARNING_RATE, OPTIMIZERS, Contender, HeadraceStep, KerasStep
from benchmarks.ids import DISTRIBUTIONS, EXPONENT
from benchmarks.interleaved import Times, interleave
from benchmarks.machine import Copy, available_memory, describe
from benchmarks.peers import Peer, PeerMissing
from benchmarks.report import Report
from embeddings.optimizers import EPSILON, INITIAL_ACCUMULATOR
from foundation.progress import progress

_FLOAT = 4  # bytes
_RESERVE = 4 << 30  # bytes
_FBGEMM = Path(__file__).with_name("fbgemm_peer.py")


@dataclass(frozen=True)
class Sizes:
    """batches: how many different ones are cycled through, so that no cache holds the rows of the next."""

    batch: int = 8192
    features: int = 26
    dim: int = 64
    rows: int = 10_000_000
    batches: int = 8
    warmup: int = 4
    rounds: int = 24
    copied_bytes: int = 1 << 29


QUICK = Sizes(batch=256, features=4, rows=10_000, batches=2, warmup=1, rounds=3, copied_bytes=1 << 24)


class _FbgemmStep:
    """The peer's process as a contender."""

    def __init__(self, peer: Peer, folder: Path, question: dict[str, Any]) -> None:
        self._peer, self._file = peer, folder / "rows.npy"
        peer.ask(question)

    def step(self, batch: int) -> float:
        return float(self._peer.ask({"batch": batch})["seconds"])

    def rows(self, batch: int) -> np.ndarray:
        self._peer.ask({"rows": batch, "file": str(self._file)})
        return np.load(self._file, allow_pickle=False)

    def release(self) -> None:
        self._peer.ask({"release": True})


def run(quick: bool) -> Report:
    """Measures every optimizer on uniform and skewed ids against Keras and, where the peers are, FBGEMM."""
    sizes = QUICK if quick else Sizes()
    table = Table(
        "ids.optimizer", "", "median ms", "spread", "headrace's time over it", title="embeddings: one training step"
    )
    report = Report("embeddings", _protocol(sizes, quick), describe(), table)
    copy = Copy(sizes.copied_bytes)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = _fbgemm(stack, report)
        meter = stack.enter_context(progress("embeddings", len(DISTRIBUTIONS) * len(OPTIMIZERS), "cases"))
        for distribution, draw in DISTRIBUTIONS.items():
            generator = np.random.default_rng(1)
            ids = draw(generator, (sizes.batches, sizes.batch, sizes.features), sizes.rows)
            gradient = generator.standard_normal((sizes.batch, sizes.features, sizes.dim), np.float32)
            distinct = float(np.mean([len(np.unique(batch)) for batch in ids]))
            for optimizer in OPTIMIZERS:
                meter.advance(note=f"{distribution} {optimizer}")
                wanted, there = memory_wanted(optimizer, sizes, peer is not None), available_memory()
                if wanted > there:
                    report.notes.append(
                        f"{distribution}.{optimizer} was left out: its tables and a reserve want "
                        f"{wanted / 1e9:.0f} GB of memory, {there / 1e9:.0f} GB are free"
                    )
                    continue
                with _contenders(optimizer, sizes, ids, gradient, peer, folder) as contenders:
                    times = _timed(contenders, copy, sizes)
                    _check_equal_work(contenders, optimizer)
                moved = bytes_moved(optimizer, sizes, distinct)
                _add(report, f"{distribution}.{optimizer}", times, moved, copy.bytes)
    return report


def bytes_moved(optimizer: str, sizes: Sizes, distinct: float) -> float:
    """What a step must at least read and write: looked-up rows in and out, the gradient in, distinct rows and their
    slots in and out, the ids."""
    occurrences, row = sizes.batch * sizes.features, sizes.dim * _FLOAT
    slot = {"rowwise_adagrad": _FLOAT, "adagrad": row, "sgd": 0}[optimizer]
    return occurrences * (3 * row + 8) + distinct * 2 * (row + slot)


def memory_wanted(optimizer: str, sizes: Sizes, fbgemm: bool) -> float:
    """Bytes of all contenders' tables and slots, of two more copies while a variable is made, and what is left to the
    machine's other work."""
    ours, keras = {"rowwise_adagrad": (1, 2), "adagrad": (2, 2), "sgd": (1, 1)}[optimizer]  # in tables
    return (ours * (2 if fbgemm else 1) + keras + 2) * sizes.rows * sizes.dim * _FLOAT + _RESERVE


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "step": "lookup of [batch, features] ids in one float32 table, and its update with a given output gradient",
        "order": "contenders take turns in a random order within each round; medians over rounds; FBGEMM in a child",
        "row-wise Adagrad": "Keras has none, its Adagrad stands for it",
        "Keras SGD": "the legacy one, whose update is sparse",
        "skewed": f"Zipf, exponent {EXPONENT}",
        "quick": quick,
        **asdict(sizes),
    }


def _fbgemm(stack: ExitStack, report: Report) -> Peer | None:
    try:
        peer = stack.enter_context(Peer(_FBGEMM, "FBGEMM"))
    except PeerMissing as reason:
        report.notes.append(str(reason))
        return None
    report.machine.update(peer.facts)
    return peer


@contextmanager
def _contenders(
    optimizer: str, sizes: Sizes, ids: np.ndarray, gradient: np.ndarray, peer: Peer | None, folder: Path
) -> Iterator[dict[str, Contender]]:
    """By name; their tables are let go at the end."""
    contenders: dict[str, Contender] = {
        "headrace": HeadraceStep(optimizer, sizes.rows, ids, gradient),
        "keras": KerasStep(optimizer, sizes.rows, ids, gradient),
    }
    if peer is not None:
        np.save(folder / "ids.npy", ids)
        np.save(folder / "gradient.npy", gradient)
        question = {
            "optimizer": optimizer,
            "learning_rate": LEARNING_RATE,
            "epsilon": EPSILON,
            "initial_accumulator": INITIAL_ACCUMULATOR,
            "vocabulary_size": sizes.rows,
            "ids": str(folder / "ids.npy"),
            "gradient": str(folder / "gradient.npy"),
        }
        contenders["fbgemm"] = _FbgemmStep(peer, folder, question)
    try:
        yield contenders
    finally:
        for contender in contenders.values():
            contender.release()


def _timed(contenders: Mapping[str, Contender], copy: Copy, sizes: Sizes) -> dict[str, Times]:
    turns = {
        name: lambda number, contender=contender: contender.step(number % sizes.batches)
        for name, contender in contenders.items()
    }
    return interleave({**turns, "memcpy": copy}, sizes.rounds, sizes.warmup)


def _check_equal_work(contenders: Mapping[str, Contender], optimizer: str) -> None:
    """A ratio means something only if both did the same work: after the same steps the tables agree. Keras' Adagrad
    is another algorithm than row-wise Adagrad, so there it is not compared."""
    ours = contenders["headrace"].rows(0)
    for name, contender in contenders.items():
        if name == "keras" and optimizer == "rowwise_adagrad":
            continue
        difference = float(np.max(np.abs(contender.rows(0) - ours)) / np.max(np.abs(ours)))
        if difference > 1e-4:
            raise AssertionError(f"{optimizer}: {name} and headrace trained different tables (relative {difference:g})")


def _add(report: Report, case: str, times: Mapping[str, Times], moved: float, copied: int) -> None:
    """Adds a case's rows to the table, and its metrics."""
    limit = moved / (copied / times["memcpy"].median)  # seconds: moving the same bytes at the speed of memcpy
    shown = {name: taken.median for name, taken in times.items()} | {"memcpy": limit}
    for name, seconds in shown.items():
        ratio = shown["headrace"] / seconds
        label = f"memcpy of the same {moved / 1e6:.0f} MB" if name == "memcpy" else name
        report.table.add_row(
            case if name == "headrace" else "",
            label,
            f"{seconds * 1e3:.2f}",
            f"{times[name].spread:.0%}",
            f"{ratio:.2f}",
            end_section=name == "memcpy",
        )
        report.metrics[f"{case}.{name}_ms"] = seconds * 1e3
        report.metrics[f"{case}.{name}_spread"] = times[name].spread
        if name != "headrace":
            report.metrics[f"{case}.time_over_{name}"] = ratio
    report.metrics[f"{case}.memcpy_gb_per_s"] = copied / times["memcpy"].median / 1e9
