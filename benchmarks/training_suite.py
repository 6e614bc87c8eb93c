"""Training of whole recommenders of Criteo's shape: examples a second, and how long a step waits for its input."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.ids import zipf_ids
from benchmarks.interleaved import Times, interleave
from benchmarks.machine import available_memory, describe
from benchmarks.peers import Peer, peers_command
from benchmarks.recommenders import BOTTOM, CROSS_LAYERS, CROSS_RANK, DEEP, DENSE, LABEL, TOP, columns
from benchmarks.report import Report
from embeddings.config import KERAS_SCALE
from embeddings.optimizers import EPSILON, INITIAL_ACCUMULATOR
from foundation.errors import UserError
from foundation.progress import progress

MODELS = ("dlrm", "dcn_v2")
LEARNING_RATE = 0.02
EXPONENT = 1.05  # of the ids' Zipf law
CLICKS = 0.25  # share of positive labels, as in Criteo's sample
# Rows of each categorical feature in Criteo's Kaggle set; the largest are capped, as in MLPerf.
CRITEO = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
_TORCH = Path(__file__).with_name("torch_recommenders_peer.py")
_ROWS_REPEATED = 65_536
_FLOAT = 4  # bytes
_TABLES_HELD = {"headrace": 1, "keras": 2, "torch": 1, "torch_tuned_allocator": 1}  # with slots of their width
_RESERVE = 4 << 30  # bytes
_SAME_LOSS = 1e-3  # relative
_SAME_VECTORS = 1e-3  # relative
_NAMES = {
    "headrace": "headrace",
    "keras": "Keras",
    "torch": "PyTorch",
    "torch_tuned_allocator": "PyTorch with a tuned allocator",
}
# PyTorch's tuning guide advises an allocator that keeps freed memory; glibc's does when told to, and a step's large
# temporaries are then not paged in anew. Few set it, so PyTorch is measured both ways.
_ENVIRONMENTS: dict[str, dict[str, str]] = {
    "torch_tuned_allocator": {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296"
        ":glibc.malloc.trim_threshold=8589934592"
    },
}


@dataclass(frozen=True)
class Sizes:
    """batches: how many different ones are cycled through. tables_of: how many of Criteo's. cap: rows of a table at
    most; 10 million rows in all. log_batches: in the Parquet files that the waiting is measured on."""

    batch: int = 8192
    tables_of: int = len(CRITEO)
    dim: int = BOTTOM[-1]
    cap: int = 1_886_000
    batches: int = 8
    warmup: int = 4
    rounds: dict[str, int] = field(default_factory=lambda: {"dlrm": 20, "dcn_v2": 8})
    threads: int = 2
    log_batches: int = 48
    row_group: int = 65_536
    try_compile: bool = True
    sides: tuple[str, ...] = tuple(_NAMES)

    @property
    def tables(self) -> list[int]:
        """Rows of each."""
        return [min(rows, self.cap) for rows in CRITEO[: self.tables_of]]


QUICK = Sizes(
    batch=64,
    tables_of=6,
    cap=500,
    batches=2,
    warmup=1,
    rounds=dict.fromkeys(MODELS, 3),
    log_batches=5,
    row_group=128,
    try_compile=False,
    sides=("headrace", "keras", "torch"),
)


def _child(side: str) -> Peer:
    """One side's process, in its own environment.

    Raises:
      PeerMissing: there is no such Python, or it ends.
    """
    ours = [sys.executable, "-W", "ignore", "-m", "benchmarks.recommenders"]
    return Peer(peers_command(_TORCH) if side.startswith("torch") else ours, _NAMES[side], _ENVIRONMENTS.get(side))


class Contender:
    """A model in training in a process of its own. `losses`: of each step made."""

    def __init__(self, peer: Peer, question: dict[str, Any], batches: int) -> None:
        self._peer, self._batches = peer, batches
        self.losses: list[float] = []
        self.facts = peer.ask(question)

    def step(self, number: int) -> float:
        """Seconds of a step on the round's batch."""
        answer = self._peer.ask({"batch": number % self._batches})
        self.losses.append(answer["loss"])
        return float(answer["seconds"])

    def vectors(self, folder: Path) -> np.ndarray:
        """[B, F * dim] float32: what the first batch's ids look up now."""
        file = folder / "vectors.npy"
        self._peer.ask({"rows": 0, "file": str(file)})
        return np.load(file, allow_pickle=False)


def run(quick: bool) -> Report:
    """Measures DLRM and DCN-v2 against the same models in Keras and, where it is, in PyTorch over FBGEMM; then DLRM on
    Parquet files."""
    return measure(QUICK if quick else Sizes(), quick)


def measure(sizes: Sizes, quick: bool) -> Report:
    """`run`, at other sizes."""
    table = Table("model", "", "examples/s", "median ms", "spread", "headrace's rate over it", title="training")
    report = Report("training", _protocol(sizes, quick), describe(), table)
    generator = np.random.default_rng(1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        meter = stack.enter_context(progress("training", len(MODELS) + 1, "cases"))
        batches = folder / "batches.npz"
        ids, dense, labels = _batches(generator, sizes)
        np.savez(batches, ids=ids, dense=dense, labels=labels)
        for model in MODELS:
            meter.advance(note=model)
            weights = folder / f"{model}.npz"
            np.savez(weights, **initial_weights(generator, model, len(sizes.tables), sizes.dim))
            question = _question(model, sizes, batches, weights)
            with _contenders(question, sizes, report) as contenders:
                turns = {name: each.step for name, each in contenders.items()}
                times = interleave(turns, sizes.rounds[model], sizes.warmup)
                _check_equal_work(model, contenders, folder)
            _add(report, model, times, sizes)
        meter.advance(note="input")
        question = _question("dlrm", sizes, batches, folder / "dlrm.npz")
        _measure_waiting(report, question, generator, sizes, folder)
    return report


def _batches(generator: np.random.Generator, sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids [batches, F, B] int64, dense [batches, B, 13] float32, labels [batches, B] float32."""
    shape = (sizes.batches, sizes.batch)
    ids = np.stack([zipf_ids(generator, shape, rows, EXPONENT) for rows in sizes.tables], axis=1)
    dense = generator.random((*shape, DENSE), np.float32)
    return ids, dense, (generator.random(shape) < CLICKS).astype(np.float32)


def initial_weights(generator: np.random.Generator, model: str, tables: int, dim: int) -> dict[str, Any]:
    """The dense layers' first weights by "<layer>/kernel" [in, out] (Glorot and Bengio, 2010) and "<layer>/bias"; and
    "rows" [n, dim], which every table starts with, repeated: from zeros DCN-v2's gradients would be denormal numbers,
    which slow PyTorch down."""
    vectors = tables + 1
    if model == "dlrm":
        shapes = {**_tower("bottom", DENSE, BOTTOM), **_tower("top", dim + vectors * (vectors - 1) // 2, TOP)}
    else:
        width = DENSE + dim * tables
        shapes = _tower("deep", width, DEEP)
        for i in range(CROSS_LAYERS):
            shapes |= {f"cross_{i}_down": (width, CROSS_RANK), f"cross_{i}_up": (CROSS_RANK, width)}
    scale = KERAS_SCALE  # as tables have it by default
    weights = {"rows": generator.uniform(-scale, scale, (_ROWS_REPEATED, dim)).astype(np.float32)}
    for layer, shape in shapes.items():
        limit = np.sqrt(6 / sum(shape))
        weights[f"{layer}/kernel"] = generator.uniform(-limit, limit, shape).astype(np.float32)
        if not layer.endswith("_down"):
            weights[f"{layer}/bias"] = np.zeros(shape[1], np.float32)
    return weights


def _tower(name: str, width: int, units: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """[in, out] of each layer."""
    return {f"{name}_{i}": shape for i, shape in enumerate(zip((width, *units), units, strict=False))}


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "tuning": "PyTorch: torch.compile if it is faster, fused dense Adagrad; once more with an allocator that keeps "
        "freed memory",
        "step": "forward, backward, update of tables and dense weights, loss read; batches are in memory",
        "order": "contenders, each a process, take turns in a random order within each round; medians over rounds",
        "tables": f"Criteo's {len(sizes.tables)}, {sum(sizes.tables):,} rows in all",
        "ids": f"Zipf, exponent {EXPONENT}",
        "optimizers": "dense: Adagrad; tables: row-wise Adagrad (headrace, torch), Adagrad (keras, which has no other)",
        "environments": _ENVIRONMENTS,
        "input": "DLRM on Parquet files in a temporary folder; waited: from asking for a batch to its tensors",
        "quick": quick,
        **asdict(sizes),
    }


def _question(model: str, sizes: Sizes, batches: Path, weights: Path) -> dict[str, Any]:
    return {
        "model": model,
        "tables": sizes.tables,
        "dim": sizes.dim,
        "learning_rate": LEARNING_RATE,
        "epsilon": EPSILON,
        "initial_accumulator": INITIAL_ACCUMULATOR,
        "threads": sizes.threads,
        "try_compile": sizes.try_compile,
        "batches": str(batches),
        "weights": str(weights),
    }


@contextmanager
def _contenders(question: dict[str, Any], sizes: Sizes, report: Report) -> Iterator[dict[str, Contender]]:
    """By name; their processes, and so their memory, end with the block."""
    with ExitStack() as stack:
        contenders = {}
        for side in sizes.sides:
            try:
                _need_memory(side, sizes)
                child = stack.enter_context(_child(side))
            except UserError as reason:
                if side == "headrace":
                    raise
                report.notes.append(f"{question['model']}: {reason}")
                continue
            contenders[side] = Contender(child, {**question, "side": side}, sizes.batches)
            report.machine.update(child.facts)
            if "compiled" in contenders[side].facts:
                report.protocol[f"{question['model']}.{side}: torch.compile kept"] = contenders[side].facts["compiled"]
        yield contenders


def _need_memory(side: str, sizes: Sizes) -> None:
    """Raises UserError unless there is memory for a contender's tables and slots, a copy of its largest table while a
    variable is made, and the machine's other work."""
    rows = _TABLES_HELD[side] * sum(sizes.tables) + max(sizes.tables)
    wanted, there = rows * sizes.dim * _FLOAT + _RESERVE, available_memory()
    if wanted > there:
        raise UserError(
            f"{_NAMES[side]} was left out: its tables and a reserve want {wanted / 1e9:.0f} GB of memory, "
            f"{there / 1e9:.0f} GB are free"
        )


def _check_equal_work(model: str, contenders: Mapping[str, Contender], folder: Path) -> None:
    """A ratio means something only if all did the same work: from the same weights, the losses and the trained vectors
    are the same; with Keras the first loss alone, since its Adagrad is another algorithm than row-wise Adagrad."""
    ours = contenders["headrace"]
    vectors = ours.vectors(folder)
    for name, contender in contenders.items():
        compared = slice(0, 1) if name == "keras" else slice(None)
        difference = _largest_difference(np.array(contender.losses[compared]), np.array(ours.losses[compared]))
        if not difference <= _SAME_LOSS:
            raise AssertionError(f"{model}: {name} and headrace have other losses (relative {difference:g})")
        if name != "keras":
            difference = _largest_difference(contender.vectors(folder), vectors)
            if not difference <= _SAME_VECTORS:
                raise AssertionError(f"{model}: {name} and headrace trained other tables (relative {difference:g})")


def _largest_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Relative to the largest value."""
    return float(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))


def _add(report: Report, model: str, times: Mapping[str, Times], sizes: Sizes) -> None:
    """Adds a model's rows to the table, and its metrics."""
    ours = times["headrace"].median
    for name, taken in times.items():
        rate = sizes.batch / taken.median
        ratio = taken.median / ours
        report.table.add_row(
            model if name == "headrace" else "",
            name,
            f"{rate:,.0f}",
            f"{taken.median * 1e3:.1f}",
            f"{taken.spread:.0%}",
            f"{ratio:.2f}",
        )
        report.metrics[f"{model}.{name}_examples_per_s"] = rate
        report.metrics[f"{model}.{name}_ms"] = taken.median * 1e3
        report.metrics[f"{model}.{name}_spread"] = taken.spread
        if name != "headrace":
            report.metrics[f"{model}_examples_per_s_vs_{name}"] = ratio
    report.table.add_section()


def _measure_waiting(
    report: Report, question: dict[str, Any], generator: np.random.Generator, sizes: Sizes, folder: Path
) -> None:
    """Adds headrace's DLRM on Parquet files."""
    log = folder / "log"
    log.mkdir()
    write_log(log / "clicks.parquet", generator, sizes)
    with _child("headrace") as child:
        child.ask({**question, "side": "headrace"})
        answer = child.ask({"log": str(log), "warmup": sizes.warmup})
    share = answer["waited"] / answer["seconds"]
    rate = answer["steps"] * sizes.batch / answer["seconds"]
    report.table.add_row(
        "dlrm from Parquet", "headrace", f"{rate:,.0f}", f"{sizes.batch / rate * 1e3:.1f}", "", f"waits {share:.1%}"
    )
    report.metrics["input_wait_share"] = share
    report.metrics["dlrm_from_parquet.headrace_examples_per_s"] = rate


def write_log(file: Path, generator: np.random.Generator, sizes: Sizes) -> None:
    """Parquet of Criteo's shape: ids int64, numbers and the label float32."""
    rows = sizes.log_batches * sizes.batch
    made = {}
    for place, (name, kind) in enumerate(columns(len(sizes.tables)).items()):
        if kind == "id":
            made[name] = zipf_ids(generator, (rows,), sizes.tables[place], EXPONENT)
        elif name == LABEL:
            made[name] = (generator.random(rows) < CLICKS).astype(np.float32)
        else:
            made[name] = generator.random(rows, np.float32)
    pq.write_table(pa.table(made), file, row_group_size=sizes.row_group)
