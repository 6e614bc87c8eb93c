"""Training on one worker and on two, each pinned to a core: throughput, exchanges, and the bytes they move."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.interleaved import Times, interleave
from benchmarks.machine import describe
from benchmarks.report import Report
from benchmarks.scaling_contenders import GROUPS, Contender, headrace, started
from benchmarks.scaling_problem import (
    HISTORIES,
    MODELS,
    WORKERS,
    Case,
    Feature,
    Sizes,
    draw_case,
    features_of,
    planned_bytes,
)
from benchmarks.training_suite import EXPONENT
from foundation.errors import UserError
from foundation.progress import progress

QUICK = Sizes(
    batch=64,
    tables_of=5,
    cap=5000,
    history=3,
    batches=2,
    steps=2,
    rounds=dict.fromkeys(MODELS, 2),
    many_tables=10,
    checked=16,
    try_compile=False,
)
_SAME_LOSS = 1e-3  # relative
_SAME_VECTORS = 1e-3  # relative
# who takes turns: of which group; whether a worker that is alone trains on one worker's share of a batch or on all;
# whether ids are sent a batch ahead
_TURNS = {
    "one": ("headrace_one", True, False),
    "one_on_whole_batches": ("headrace_one", False, False),
    "two": ("headrace_two", False, True),
    "two_without_overlap": ("headrace_two", False, False),
    "two_apart": ("headrace_apart", True, False),
    "torch_one": ("torch_one", True, False),
    "torch_two": ("torch_two", False, False),
}


def run(quick: bool) -> Report:
    """Measures two workers against one, and against TorchRec's two where it is."""
    return measure(QUICK if quick else Sizes(), quick)


def measure(sizes: Sizes, quick: bool) -> Report:
    """`run`, at other sizes."""
    began = time.monotonic()
    table = Table("model", "", "examples/s", "p50 ms", "spread", "two headrace workers' rate over it", title="scaling")
    report = Report("scaling", _protocol(sizes, quick), describe(), table)
    generator = np.random.default_rng(1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        meter = stack.enter_context(progress("scaling", len(MODELS) + 1, "cases"))
        for model in MODELS:
            meter.advance(note=model)
            case = draw_case(model, features_of(model, sizes), sizes.tables, generator, sizes, folder)
            _measure_model(report, case, sizes, folder)
        meter.advance(note="exchanges")
        _measure_exchanges(report, sizes, folder)
    ratios = [report.metrics[f"bytes_measured_vs_planned_{model}"] for model in MODELS]
    report.metrics["bytes_measured_vs_planned"] = max(ratios, key=lambda ratio: abs(np.log(ratio)))
    report.metrics["seconds"] = time.monotonic() - began
    return report


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "workers": f"one process a worker, each pinned to a core of its own, one thread; {WORKERS} against 1",
        "two_worker_throughput_vs_one": "weak scaling: as many examples a worker, so the global batch doubles; the "
        "same tables, spread over the workers by default_plan. strong: the same global batch on one worker",
        "step": "forward, backward, update of tables and dense weights, loss read; batches are in memory",
        "two_apart": "two processes that train a model each, on one worker's examples: the machine's limit",
        "turn": f"{sizes.steps} steps, from the last worker's beginning to the last one's end; p50, spread: over turns",
        "overlap": "two workers send the ids of a turn's next batch while this one computes; a turn's first exchange "
        "has nothing to hide behind. two_without_overlap: one after the other",
        "memory": "the C library of every worker keeps what is freed (foundation.memory)",
        "order": "contenders take turns in a random order within each round; who has no turn waits on a pipe",
        "tables": f"Criteo's {len(sizes.tables)}, {sum(sizes.tables):,} rows in all",
        "ids": f"Zipf, exponent {EXPONENT}",
        "embedding": f"a sum of all vectors is the loss; besides the 26 features two histories of 0 to "
        f"{2 * sizes.history} ids on tables {HISTORIES[0]} and {HISTORIES[1]}",
        "peer": "TorchRec: its planner's plan, DistributedModelParallel over gloo, FBGEMM's tables, torch.compile of "
        "the dense part if it is faster",
        "optimizers": "dense: Adagrad; tables: row-wise Adagrad",
        "bytes": "handed to the communicator for other ranks, all ranks' together, mean over batches",
        "quick": quick,
        **asdict(sizes),
    }


def _measure_model(report: Report, case: Case, sizes: Sizes, folder: Path) -> None:
    """Adds a model's throughput and bytes."""
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for name in GROUPS:
            try:
                contenders[name] = started(stack, name, case, sizes, folder)
            except UserError as reason:
                if name.startswith("headrace"):
                    raise
                report.notes.append(f"{case.model}: {reason}")
                continue
            report.machine.update(contenders[name].group.facts)
            report.protocol[f"{case.model}.{name}"] = contenders[name].facts
        _check_equal_work(case.model, contenders, folder)
        turns = {
            name: partial(contenders[group].seconds, share=share, ahead=ahead)
            for name, (group, share, ahead) in _TURNS.items()
            if group in contenders
        }
        _add(report, case.model, interleave(turns, sizes.rounds[case.model], sizes.warmup), sizes)
        _add_bytes(report, case, contenders["headrace_two"], sizes)


def _check_equal_work(model: str, contenders: Mapping[str, Contender], folder: Path) -> None:
    """A ratio means something only if all did the same work: one turn on whole batches, from the same weights, gives
    the same losses and the same trained vectors."""
    results = {
        name: (each.train(0, share=False, ahead=True)[1], each.vectors(folder))
        for name, each in contenders.items()
        if name != "headrace_apart"  # no model of its has seen the whole batch
    }
    losses, vectors = results["headrace_one"]
    for name, (other_losses, other_vectors) in results.items():
        difference = _largest_difference(other_losses, losses)
        if not difference <= _SAME_LOSS:
            raise AssertionError(f"{model}: {name} and headrace_one have other losses (relative {difference:g})")
        difference = _largest_difference(other_vectors, vectors)
        if not difference <= _SAME_VECTORS:
            raise AssertionError(f"{model}: {name} and headrace_one trained other tables (relative {difference:g})")


def _largest_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Relative to the largest value."""
    return float(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))


def _add(report: Report, model: str, times: Mapping[str, Times], sizes: Sizes) -> None:
    """Adds a model's rows to the table, and its metrics."""
    rates = {}
    for name, taken in times.items():
        examples = sizes.batch if name in ("one", "torch_one") else WORKERS * sizes.batch
        rates[name] = examples / taken.median
    for name, taken in times.items():
        report.table.add_row(
            model if name == "one" else "",
            name.replace("_", " "),
            f"{rates[name]:,.0f}",
            f"{taken.median * 1e3:.1f}",
            f"{taken.spread:.0%}",
            f"{rates['two'] / rates[name]:.2f}",
        )
        report.metrics[f"{model}.{name}_examples_per_s"] = rates[name]
        report.metrics[f"{model}.{name}_p50_ms"] = taken.median * 1e3
        report.metrics[f"{model}.{name}_spread"] = taken.spread
    report.metrics[f"two_worker_throughput_vs_one_{model}"] = rates["two"] / rates["one"]
    report.metrics[f"overlap_gain_{model}"] = rates["two"] / rates["two_without_overlap"]
    if "two_apart" in rates:
        report.metrics[f"two_worker_throughput_vs_two_apart_{model}"] = rates["two"] / rates["two_apart"]
        report.metrics[f"two_apart_throughput_vs_one_{model}"] = rates["two_apart"] / rates["one"]
    report.metrics[f"two_worker_throughput_vs_one_{model}_strong"] = rates["two"] / rates["one_on_whole_batches"]
    if "torch_two" in rates:
        report.metrics[f"two_worker_examples_per_second_vs_torch_{model}"] = rates["two"] / rates["torch_two"]
        if "torch_one" in rates:
            report.metrics[f"torch_two_worker_throughput_vs_one_{model}"] = rates["torch_two"] / rates["torch_one"]
    report.table.add_section()


def _add_bytes(report: Report, case: Case, two: Contender, sizes: Sizes) -> None:
    """Adds what a step sends, beside what the planner expects."""
    every = [call for batch in range(sizes.batches) for worker in two.calls(batch) for call in worker]
    sent = sum(size for _, _, size in every) / sizes.batches
    planned = planned_bytes(case, sizes)
    report.metrics[f"{case.model}.sent_bytes"] = sent
    report.metrics[f"{case.model}.planned_bytes"] = planned
    report.metrics[f"bytes_measured_vs_planned_{case.model}"] = sent / planned
    report.notes.append(f"{case.model}: a step sends {sent / 1e6:,.2f} MB, {sent / planned:.3f} of what is planned")


def _measure_exchanges(report: Report, sizes: Sizes, folder: Path) -> None:
    """Adds how many exchanges a step makes, of few tables and of many, and what bfloat16 on the wire leaves of the
    bytes of vectors and gradients."""
    small = replace(sizes, batch=min(sizes.batch, 256), batches=1)
    floats = {}
    with headrace(WORKERS) as group:
        for count, wire in (
            (sizes.many_tables, "float32"),
            (sizes.few_tables, "float32"),
            (sizes.few_tables, "bfloat16"),
        ):
            tables = [(1000, 20_000)[table % 2] for table in range(count)]  # copied to all, and row-wise
            features = [Feature(f"category_{table}", table) for table in range(count)]
            case = draw_case("embedding", features, tables, np.random.default_rng(2), small, folder)
            contender = Contender(group, group.ask({**case.question, "wire": wire}), small, mean=False)
            calls = contender.calls(0)
            made = max(len(of_worker) for of_worker in calls)
            report.metrics[f"collectives_per_step_{count}_tables"] = made
            report.notes.append(f"exchanges of a step over {count} tables, {wire} on the wire: {made} on each worker")
            floats[wire] = sum(
                size
                for of_worker in calls
                for kind, dtype, size in of_worker
                if kind == "all_to_all" and dtype != "int64"
            )
    report.metrics["bfloat16_wire_bytes_vs_float32"] = floats["bfloat16"] / floats["float32"]
