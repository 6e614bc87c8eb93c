"""One training step of an embedding table: lookup of a batch's ids, and the update of the rows looked up."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
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
from foundation.errors import UserError
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
    """A problem, by the arguments of `problem.draw`, and who is measured on it."""

    name: str
    contenders: tuple[str, ...]
    problem: dict[str, Any]
    rounds: int
    warmup: int

    @property
    def memory_wanted(self) -> float:
        """Bytes of the contenders' tables and slots, of the copies that are made of a new table, and a reserve."""
        optimizer = self.problem.get("optimizer", "rowwise_adagrad")
        slot = {"rowwise_adagrad": 0, "adagrad": 1, "sgd": 0}[optimizer]  # in tables
        keras = 1 if optimizer == "sgd" else 2
        tables = sum(keras if name == "keras" else 1 + slot for name in self.contenders)
        copies = 2 if {"keras", "twin", "fbgemm"} & set(self.contenders) else 0
        return (tables + copies) * self.problem["rows"] * self.problem["shape"][2] * _FLOAT + _RESERVE


@dataclass(frozen=True)
class _Found:
    """What a case's process found. touched: distinct rows of a batch."""

    times: dict[str, Times]
    touched: float


def run(quick: bool) -> Report:
    """Measures headrace's layer against its peers, its twin and the floor."""
    sizes = QUICK if quick else Sizes()
    table = Table("case", "", "median ms", "spread", "headrace's time over it", title="embeddings: one training step")
    report = Report("embeddings", _protocol(sizes, quick), describe(), table)
    with tempfile.TemporaryDirectory() as folder:
        arena = _Arena(report, sizes, _fbgemm(report), _floor(Path(folder), report))
        with progress("embeddings", 6, "parts") as meter:
            for part in (_one_hot, _multi_hot, _widths, _table_rows, _batch_sizes):
                meter.advance(note=part.__name__.strip("_").replace("_", " "))
                part(arena)
            meter.advance(note="dynamic tables")
            add_id_tables(report, quick)
    return report


class _Arena:
    """Runs each case in a process of its own, whose memory goes with it: TensorFlow's allocator gives none back."""

    def __init__(self, report: Report, sizes: Sizes, fbgemm_is_there: bool, program: Path | None) -> None:
        self.report, self.sizes = report, sizes
        self._quick = sizes is QUICK
        self._there = {"fbgemm": fbgemm_is_there, "floor": program is not None}
        self._program = program

    def measure(self, name: str, contenders: Sequence[str], **problem: Any) -> _Found:
        """A case's times; none where it does not fit this machine, which is noted."""
        chosen = tuple(each for each in contenders if self._there.get(each, True))
        case = _Case(name, chosen, problem, self.sizes.rounds, self.sizes.warmup)
        wanted, there = case.memory_wanted, available_memory()
        if wanted > there:
            self.report.notes.append(
                f"{name} was left out: its tables and a reserve want {wanted / 1e9:.0f} GB of memory, "
                f"{there / 1e9:.0f} GB are free"
            )
            return _Found({}, 1.0)
        try:
            found = self._found(case)
        except (UserError, BrokenProcessPool) as error:  # what was measured so far is not lost with it
            self.report.notes.append(f"{name} was left out: {error}")
            return _Found({}, 1.0)
        self._add(name, found.times)
        return found

    def _found(self, case: _Case) -> _Found:
        if self._quick:
            return _measure(case, self._program)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_measure, case, self._program).result()

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


def _measure(case: _Case, program: Path | None) -> _Found:
    """A case, in this process."""
    problem = draw(**case.problem)
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for name in case.contenders:
            contenders[name] = _contender(name, problem, program, stack)
        turns = {name: lambda k, c=each: c.step(k % len(problem.ids)) for name, each in contenders.items()}
        times = interleave(turns, case.rounds, case.warmup)
        _check_equal_work(case.name, problem, contenders)
    return _Found(times, problem.touched)


def _contender(name: str, problem: Problem, program: Path | None, stack: ExitStack) -> Contender:
    """Its processes end with the stack."""
    if name == "floor":
        assert program
        step = floor.FloorStep(program, problem)
        stack.callback(step.release)
        return step
    if name == "fbgemm":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = stack.enter_context(Peer(peers_command(fbgemm.PROGRAM), "FBGEMM"))
        return fbgemm.FbgemmStep(peer, folder, problem)
    kinds: dict[str, Callable[[Problem], Contender]] = {
        "headrace": HeadraceStep,
        "twin": TwinStep,
        "keras": KerasStep,
    }
    return kinds[name](problem)


def _one_hot(arena: _Arena) -> None:
    sizes, metrics = arena.sizes, arena.report.metrics
    given: dict[str, Any] = {"shape": (sizes.batch, sizes.features, sizes.dim), "batches": sizes.batches}
    for ids in ("uniform", "zipf105", "zipf12"):
        for name, peers in ((ids, ["fbgemm", "floor"]), (f"{ids}, TensorFlow's", ["twin", "keras"])):
            found = arena.measure(name, ["headrace", *peers], distribution=ids, rows=sizes.rows, **given)
            metrics.update(_ratios("step", ids, found.times))
    for optimizer in ("adagrad", "sgd"):
        found = arena.measure(
            f"uniform.{optimizer}",
            ["headrace", "twin", "keras", "fbgemm"],
            distribution="uniform",
            rows=sizes.rows_of_sweeps,
            optimizer=optimizer,
            **given,
        )
        metrics.update(_ratios(f"{optimizer}_step", "uniform", found.times))


def _multi_hot(arena: _Arena) -> None:
    sizes = arena.sizes
    found = arena.measure(
        "multihot.zipf12",
        ["headrace", "twin", "keras", "fbgemm"],
        distribution="zipf12",
        rows=sizes.rows,
        shape=(sizes.multi_hot_batch, sizes.features, sizes.dim),
        batches=sizes.batches,
        bag=sizes.ids_in_a_bag,
    )
    ratios = _ratios("multihot", "zipf12", found.times)
    if "multihot_vs_keras_zipf12" in ratios:  # Keras has no layer for bags: it is TensorFlow's own lookup
        ratios["multihot_vs_embedding_lookup_sparse_zipf12"] = ratios.pop("multihot_vs_keras_zipf12")
    arena.report.metrics.update(ratios)


def _widths(arena: _Arena) -> None:
    sizes = arena.sizes
    curves = Curves("width", "floats in a row", {})
    for dim in sizes.widths:
        found = _swept(arena, f"width {dim}", ["fbgemm", "floor"], shape=(sizes.batch, sizes.features, dim))
        curves.add(dim, found.times)
    arena.report.curves.append(curves)


def _table_rows(arena: _Arena) -> None:
    """Time per row touched may grow with the table only as memory's own does: the floor's."""
    sizes, metrics = arena.sizes, arena.report.metrics
    shape = (sizes.batch, sizes.features, sizes.narrow)
    per_row: dict[str, list[float]] = {}
    curves = Curves("rows", "rows of the table", {})
    for rows in sizes.table_rows:
        found = _swept(arena, f"rows {rows:,}", ["floor"], distribution="uniform", rows=rows, shape=shape)
        curves.add(rows, found.times)
        for name, taken in found.times.items():
            per_row.setdefault(name, []).append(taken.median / found.touched)
    for name, values in per_row.items():
        metrics[f"time_per_row_largest_vs_smallest_table_{name}"] = values[-1] / values[0]
    arena.report.curves.append(curves)


def _batch_sizes(arena: _Arena) -> None:
    sizes = arena.sizes
    curves = Curves("batch", "rows of a batch", {})
    for size in sizes.batch_sizes:
        found = _swept(arena, f"batch {size}", ["fbgemm", "floor"], shape=(size, sizes.features, sizes.dim))
        curves.add(size, found.times)
    arena.report.curves.append(curves)
    threads = times_by_threads(sizes.rows_of_sweeps, (sizes.batch, sizes.features, sizes.dim), sizes.rounds)
    arena.report.curves.append(Curves("threads", "threads", {"headrace": threads}))


def _swept(arena: _Arena, name: str, peers: Sequence[str], **problem: Any) -> _Found:
    """A case of a sweep, of Zipf 1.05 on a table of `rows_of_sweeps` rows where it does not say otherwise."""
    given = {"distribution": "zipf105", "rows": arena.sizes.rows_of_sweeps, "batches": arena.sizes.batches, **problem}
    return arena.measure(name, ["headrace", *peers], **given)


def _ratios(what: str, distribution: str, times: Mapping[str, Times]) -> dict[str, float]:
    """Headrace's median over each other's."""
    return {
        f"{what}_vs_{name}_{distribution}": times["headrace"].median / taken.median
        for name, taken in times.items()
        if name != "headrace"
    }


def _check_equal_work(case: str, problem: Problem, contenders: Mapping[str, Contender]) -> None:
    """A ratio means something only if both did the same work: after the same steps the tables agree. Keras' Adagrad
    is another algorithm than row-wise Adagrad, so there it is not compared."""
    ours = contenders["headrace"].vectors(0)
    assert ours is not None
    for name, contender in contenders.items():
        theirs = None if name == "keras" and problem.optimizer == "rowwise_adagrad" else contender.vectors(0)
        if theirs is None:
            continue
        difference = float(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))
        if difference > _EQUAL:
            raise AssertionError(f"{case}: {name} and headrace trained different tables (relative {difference:g})")


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "step": "lookup of [batch, features] ids (or bags of them, summed) in one float32 table, and its update by "
        "row-wise Adagrad with a given output gradient",
        "order": "a case is a process; its contenders take turns in a random order within each round; medians over "
        "rounds; FBGEMM and the floor in children of it",
        "keras": "Embedding and Adagrad (it has no row-wise one); with bags, tf.nn.safe_embedding_lookup_sparse; SGD "
        "is the legacy one, whose update is sparse",
        "floor": "benchmarks/floor.cc: moves the bytes, computes nothing",
        "zipf": "P(rank r) ~ r^-1.05 or r^-1.2 over the whole vocabulary, ranks scattered over ids",
        "quick": quick,
        **asdict(sizes),
    }


def _fbgemm(report: Report) -> bool:
    """Whether it is there, which the report notes."""
    try:
        with Peer(peers_command(fbgemm.PROGRAM), "FBGEMM") as peer:
            report.machine.update(peer.facts)
    except PeerMissing as reason:
        report.notes.append(str(reason))
        return False
    return True


def _floor(folder: Path, report: Report) -> Path | None:
    try:
        return floor.build(folder)
    except PeerMissing as reason:
        report.notes.append(str(reason))
        return None
