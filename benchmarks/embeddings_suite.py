"""One training step of an embedding table: lookup of a batch's ids, and the update of the rows looked up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks import fbgemm, floor
from benchmarks.contenders import Contender, HeadraceStep, KerasStep, TwinStep
from benchmarks.id_tables import add_id_tables
from benchmarks.interleaved import Times, interleave
from benchmarks.machine import available_memory, describe
from benchmarks.peers import Peer, PeerMissing, peers_command
from benchmarks.problem import Problem, draw
from benchmarks.report import Curves, Report
from benchmarks.threads import times_by_threads
from foundation.progress import progress

_FLOAT = 4  # bytes
_RESERVE = 2 << 30  # bytes left to the machine's other work
_EQUAL = 1e-4  # relative difference of vectors that were trained alike


@dataclass(frozen=True)
class Sizes:
    """batches: how many different ones are cycled through, so that no cache holds the rows of the next."""

    batch: int = 8192
    features: int = 26
    dim: int = 64
    rows: int = 10_000_000
    multi_hot_batch: int = 1024
    ids_in_a_bag: int = 20
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    table_rows: tuple[int, ...] = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000)
    batch_sizes: tuple[int, ...] = (512, 2048, 8192, 32768)
    rows_of_sweeps: int = 1_000_000
    narrow: int = 16
    batches: int = 8
    warmup: int = 4
    rounds: int = 24


QUICK = Sizes(
    batch=256,
    features=4,
    rows=10_000,
    multi_hot_batch=64,
    ids_in_a_bag=5,
    widths=(8, 16),
    table_rows=(1_000, 10_000),
    batch_sizes=(64, 128),
    rows_of_sweeps=1_000,
    batches=2,
    warmup=1,
    rounds=3,
)


@dataclass(frozen=True)
class _Case:
    """A problem and who is measured on it."""

    name: str
    problem: Problem
    contenders: Sequence[str]


def run(quick: bool) -> Report:
    """Measures headrace's layer against its peers, its twin and the floor."""
    sizes = QUICK if quick else Sizes()
    table = Table("case", "", "median ms", "spread", "headrace's time over it", title="embeddings: one training step")
    report = Report("embeddings", _protocol(sizes, quick), describe(), table)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arena = _Arena(report, sizes, folder, _fbgemm(stack, report), _floor(folder, report))
        meter = stack.enter_context(progress("embeddings", 6, "parts"))
        for part in (_one_hot, _multi_hot, _widths, _table_rows, _batch_sizes):
            meter.advance(note=part.__name__.strip("_").replace("_", " "))
            part(arena)
        meter.advance(note="dynamic tables")
        add_id_tables(report, quick)
    return report


class _Arena:
    """Runs cases one after another, so that no more tables are held at once than one case needs."""

    def __init__(self, report: Report, sizes: Sizes, folder: Path, peer: Peer | None, program: Path | None) -> None:
        self.report, self.sizes = report, sizes
        self._folder, self._peer, self._program = folder, peer, program

    def times(self, case: _Case) -> dict[str, Times]:
        """By contender; empty where the case does not fit this machine, which is noted."""
        names = [name for name in case.contenders if self._is_there(name)]
        wanted, there = memory_wanted(case.problem, names), available_memory()
        if wanted > there:
            self.report.notes.append(
                f"{case.name} was left out: its tables and a reserve want {wanted / 1e9:.0f} GB of memory, "
                f"{there / 1e9:.0f} GB are free"
            )
            return {}
        with self._made(case.problem, names) as contenders:
            batches = len(case.problem.ids)
            turns = {name: lambda k, c=contender: c.step(k % batches) for name, contender in contenders.items()}
            times = interleave(turns, self.sizes.rounds, self.sizes.warmup)
            _check_equal_work(case, contenders)
        self._add(case.name, times)
        return times

    def _is_there(self, name: str) -> bool:
        return {"fbgemm": self._peer, "floor": self._program}.get(name, True) is not None

    @contextmanager
    def _made(self, problem: Problem, names: Sequence[str]) -> Iterator[dict[str, Contender]]:
        """By name; their tables are let go at the end."""
        make: dict[str, Any] = {
            "headrace": lambda: HeadraceStep(problem),
            "twin": lambda: TwinStep(problem),
            "keras": lambda: KerasStep(problem),
            "fbgemm": lambda: fbgemm.FbgemmStep(self._peer, self._folder, problem),  # type: ignore[arg-type]
            "floor": lambda: floor.FloorStep(self._program, problem),  # type: ignore[arg-type]
        }
        contenders: dict[str, Contender] = {}
        try:
            for name in names:
                contenders[name] = make[name]()
            yield contenders
        finally:
            for contender in contenders.values():
                contender.release()

    def _add(self, case: str, times: Mapping[str, Times]) -> None:
        """A case's rows of the table, and its metrics."""
        ours = times["headrace"].median
        for name, taken in times.items():
            self.report.table.add_row(
                case if name == "headrace" else "",
                name,
                f"{taken.median * 1e3:.2f}",
                f"{taken.spread:.0%}",
                f"{ours / taken.median:.2f}",
                end_section=name == list(times)[-1],
            )
            self.report.metrics[f"{case}.{name}_ms"] = taken.median * 1e3
            self.report.metrics[f"{case}.{name}_spread"] = taken.spread


def memory_wanted(problem: Problem, names: Sequence[str]) -> float:
    """Bytes of the contenders' tables and slots, of the copies that are made of a new table, and a reserve."""
    slot = {"rowwise_adagrad": 0, "adagrad": 1, "sgd": 0}[problem.optimizer]  # in tables
    keras = 1 if problem.optimizer == "sgd" else 2
    tables = sum(keras if name == "keras" else 1 + slot for name in names)
    copies = 2 if {"keras", "twin", "fbgemm"} & set(names) else 0
    return (tables + copies) * problem.rows * problem.dim * _FLOAT + _RESERVE


def _one_hot(arena: _Arena) -> None:
    sizes, metrics = arena.sizes, arena.report.metrics
    shape = (sizes.batch, sizes.features, sizes.dim)
    for distribution in ("uniform", "zipf105", "zipf12"):
        problem = draw(distribution, sizes.rows, shape, sizes.batches)
        for name, peers in ((distribution, ["fbgemm", "floor"]), (f"{distribution}, TensorFlow's", ["twin", "keras"])):
            metrics.update(_ratios("step", distribution, arena.times(_Case(name, problem, ["headrace", *peers]))))
    for optimizer in ("adagrad", "sgd"):
        problem = draw("uniform", sizes.rows_of_sweeps, shape, sizes.batches, optimizer)
        times = arena.times(_Case(f"uniform.{optimizer}", problem, ["headrace", "twin", "keras", "fbgemm"]))
        metrics.update(_ratios(f"{optimizer}_step", "uniform", times))


def _multi_hot(arena: _Arena) -> None:
    sizes = arena.sizes
    shape = (sizes.multi_hot_batch, sizes.features, sizes.dim)
    problem = draw("zipf12", sizes.rows, shape, sizes.batches, bag=sizes.ids_in_a_bag)
    times = arena.times(_Case("multihot.zipf12", problem, ["headrace", "twin", "keras", "fbgemm"]))
    ratios = _ratios("multihot", "zipf12", times)
    if "multihot_vs_keras_zipf12" in ratios:  # Keras has no layer for bags: it is TensorFlow's own lookup
        ratios["multihot_vs_embedding_lookup_sparse_zipf12"] = ratios.pop("multihot_vs_keras_zipf12")
    arena.report.metrics.update(ratios)


def _widths(arena: _Arena) -> None:
    sizes = arena.sizes
    curves = Curves("width", "floats in a row", {})
    for dim in sizes.widths:
        shape = (sizes.batch, sizes.features, dim)
        problem = draw("zipf105", sizes.rows_of_sweeps, shape, sizes.batches)
        curves.add(dim, arena.times(_Case(f"width {dim}", problem, ["headrace", "fbgemm", "floor"])))
    arena.report.curves.append(curves)


def _table_rows(arena: _Arena) -> None:
    """Time per row touched may grow with the table only as memory's own does: the floor's."""
    sizes, metrics = arena.sizes, arena.report.metrics
    shape = (sizes.batch, sizes.features, sizes.narrow)
    curves, per_row = Curves("rows", "rows of the table", {}), {}
    for rows in sizes.table_rows:
        problem = draw("uniform", rows, shape, sizes.batches)
        times = arena.times(_Case(f"rows {rows:,}", problem, ["headrace", "floor"]))
        curves.add(rows, times)
        for name, taken in times.items():
            per_row.setdefault(name, []).append(taken.median / problem.touched)
    for name, values in per_row.items():
        metrics[f"time_per_row_largest_vs_smallest_table_{name}"] = values[-1] / values[0]
    arena.report.curves.append(curves)


def _batch_sizes(arena: _Arena) -> None:
    sizes = arena.sizes
    curves = Curves("batch", "rows of a batch", {})
    for size in sizes.batch_sizes:
        problem = draw("zipf105", sizes.rows_of_sweeps, (size, sizes.features, sizes.dim), sizes.batches)
        curves.add(size, arena.times(_Case(f"batch {size}", problem, ["headrace", "fbgemm", "floor"])))
    arena.report.curves.append(curves)
    threads = times_by_threads(sizes.rows_of_sweeps, (sizes.batch, sizes.features, sizes.dim), sizes.rounds)
    arena.report.curves.append(Curves("threads", "threads", {"headrace": threads}))


def _ratios(what: str, distribution: str, times: Mapping[str, Times]) -> dict[str, float]:
    """Headrace's median over each other's."""
    return {
        f"{what}_vs_{name}_{distribution}": times["headrace"].median / taken.median
        for name, taken in times.items()
        if name != "headrace"
    }


def _check_equal_work(case: _Case, contenders: Mapping[str, Contender]) -> None:
    """A ratio means something only if both did the same work: after the same steps the tables agree. Keras' Adagrad
    is another algorithm than row-wise Adagrad, so there it is not compared."""
    ours = contenders["headrace"].vectors(0)
    assert ours is not None
    for name, contender in contenders.items():
        theirs = None if name == "keras" and case.problem.optimizer == "rowwise_adagrad" else contender.vectors(0)
        if theirs is None:
            continue
        difference = float(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))
        if difference > _EQUAL:
            raise AssertionError(f"{case.name}: {name} and headrace trained different tables (relative {difference:g})")


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "step": "lookup of [batch, features] ids (or bags of them, summed) in one float32 table, and its update by "
        "row-wise Adagrad with a given output gradient",
        "order": "contenders take turns in a random order within each round; medians over rounds; FBGEMM and the floor "
        "in a child",
        "keras": "Embedding and Adagrad (it has no row-wise one); with bags, tf.nn.safe_embedding_lookup_sparse; SGD is "
        "the legacy one, whose update is sparse",
        "floor": "benchmarks/floor.cc: moves the bytes, computes nothing",
        "zipf": "P(rank r) ~ r^-1.05 or r^-1.2 over the whole vocabulary, ranks scattered over ids",
        "quick": quick,
        **asdict(sizes),
    }


def _fbgemm(stack: ExitStack, report: Report) -> Peer | None:
    try:
        peer = stack.enter_context(Peer(peers_command(fbgemm.PROGRAM), "FBGEMM"))
    except PeerMissing as reason:
        report.notes.append(str(reason))
        return None
    report.machine.update(peer.facts)
    return peer


def _floor(folder: Path, report: Report) -> Path | None:
    try:
        return floor.build(folder)
    except PeerMissing as reason:
        report.notes.append(str(reason))
        return None
