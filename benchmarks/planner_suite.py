"""The planner's predicted step time against the measured one, of models drawn at random, on two workers here."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.machine import busy_seconds, cores, describe
from benchmarks.planner_problem import (
    BATCHES,
    LIMITS,
    RANKS,
    Limits,
    Model,
    draw_models,
    kinds_of,
    question_of,
)
from benchmarks.report import Report
from benchmarks.worker_groups import WorkerGroup
from embeddings.planner import ClusterTopology
from embeddings.planner.calibrate import PROBES
from embeddings.planner.prediction import Prediction
from foundation.progress import progress
from trainer.calibration import calibrate
from trainer.supervisor.environment import tf_config
from trainer.supervisor.ports import HeldPorts
from trainer.workload_step import undisturbed

QUIET = 0.03  # of the cores' time, that other processes may take of a turn
_COMMAND = [sys.executable, "-W", "ignore", "-m", "benchmarks.planner_worker"]


@dataclass(frozen=True)
class Sizes:
    """models: drawn from each of the seeds; what the cost model lacked was looked for with the first in sight, not the
    second. batches: different ones, taken in turn. warmup, steps: of a model, before and in a turn whose time is
    taken; so many turns at most, until one is quiet."""

    models: int = 10
    seeds: tuple[int, ...] = (1, 3)
    batches: int = 4
    warmup: int = 4
    steps: int = 20
    turns: int = 4
    limits: Limits = LIMITS
    probes: tuple[str, ...] = tuple(PROBES)


QUICK = Sizes(
    models=2,
    batches=2,
    warmup=1,
    steps=2,
    limits=Limits(tables=2e7, vectors=4e6, batch=BATCHES[0]),
    probes=("few tables", "many features", "small dense"),
)


@dataclass(frozen=True)
class Outcome:
    """Of a model. others: the share of the cores' time that other processes took while it was measured."""

    model: Model
    kinds: dict[str, int]
    prediction: Prediction
    seconds: np.ndarray  # [steps] float64
    others: float

    @property
    def measured(self) -> float:
        """Seconds of a step."""
        return undisturbed(self.seconds.tolist())

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.prediction.step_seconds / self.measured - 1.0


def run(quick: bool) -> Report:
    """Calibrates this machine, then predicts and measures."""
    return measure(QUICK if quick else Sizes(), quick)


def measure(sizes: Sizes, quick: bool) -> Report:
    """`run`, at other sizes."""
    began = time.monotonic()
    table = Table(
        "seed",
        "model",
        "tables",
        "batch",
        "sharding types",
        "compute ms",
        "memory ms",
        "wire ms",
        "predicted ms",
        "measured ms",
        "p50 ms",
        "others",
        "error",
        title="planner",
    )
    report = Report("planner", _protocol(sizes, quick), describe(), table)
    topology = calibrate(RANKS, {name: PROBES[name] for name in sizes.probes})
    report.protocol["topology"] = asdict(topology)
    outcomes = {seed: _outcomes(topology, sizes, seed, report) for seed in sizes.seeds}
    for seed, of_seed in outcomes.items():
        _add(report, seed, of_seed, first=seed == sizes.seeds[0])
    report.metrics["seconds"] = time.monotonic() - began
    return report


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "workers": f"{RANKS} processes, each pinned to a core of its own, one thread, over shared memory",
        "prediction": "embeddings.planner's cost model on the topology that trainer.calibration has just measured from "
        "probes; no model that is predicted is among them",
        "plans": "greedy by the cost model; of two models in five, every sharding type in turn",
        "step": "forward, backward, update of tables and dense weights, dense all-reduce, loss read; nothing a batch "
        "ahead; ids in memory, by each table's law",
        "measured": f"the lower quartile of {sizes.steps} steps on {sizes.batches} batches in turn, after "
        f"{sizes.warmup}: what else runs only adds; probes likewise. p50: their median",
        "quiet": f"a turn in which other processes took over {QUIET:.0%} of the cores' time is taken again, at most "
        f"{sizes.turns} in all; the quietest counts",
        "error": "predicted over measured, less 1",
        "quick": quick,
        **asdict(sizes),
    }


def _outcomes(topology: ClusterTopology, sizes: Sizes, seed: int, report: Report) -> list[Outcome]:
    """Of each model drawn from the seed."""
    models = draw_models(sizes.models, seed, sizes.limits)
    outcomes = []
    with closing(HeldPorts(RANKS)) as ports, progress(f"models of seed {seed}", len(models), "models") as meter:
        environments = [{"TF_CONFIG": tf_config(rank, ports.addresses)} for rank in range(RANKS)]
        with WorkerGroup(_COMMAND, "headrace", environments) as group:
            report.machine.update(group.facts)
            for model in models:
                outcomes.append(_outcome(model, topology, group, sizes))
                meter.advance(note=f"{model.name} {outcomes[-1].error:+.0%}")
    return outcomes


def _outcome(model: Model, topology: ClusterTopology, group: WorkerGroup, sizes: Sizes) -> Outcome:
    plan = model.planned(topology)
    group.ask(question_of(model, plan, sizes.batches))
    group.ask({"train": sizes.warmup})
    turns: list[tuple[float, np.ndarray]] = []
    while len(turns) < sizes.turns and not any(others <= QUIET for others, _ in turns):
        turns.append(_turn(group, sizes.steps))
    others, seconds = min(turns, key=lambda turn: turn[0])
    return Outcome(model, kinds_of(plan), plan.prediction, seconds, others)


def _turn(group: WorkerGroup, steps: int) -> tuple[float, np.ndarray]:
    """The share of the cores' time that other processes took, and the seconds [steps] of each step."""
    before, began = busy_seconds(), time.monotonic()
    answers = group.ask({"train": steps})
    passed = time.monotonic() - began
    others = busy_seconds() - before - sum(answer["worked"] for answer in answers)
    # a worker waits for the other in every exchange: over a few steps both take the same time
    seconds = np.mean([answer["seconds"] for answer in answers], axis=0)
    return max(others, 0.0) / (cores() * passed), seconds


def _add(report: Report, seed: int, outcomes: Sequence[Outcome], first: bool) -> None:
    """Adds a seed's rows to the table, and its metrics; the first seed's without its number in their names."""
    suffix = "" if first else f"_seed_{seed}"
    for outcome in outcomes:
        model, prediction = outcome.model, outcome.prediction
        median = float(np.median(outcome.seconds))
        parts = (prediction.compute_seconds, prediction.memory_seconds, prediction.wire_seconds)
        report.table.add_row(
            str(seed),
            model.name,
            str(len(model.workload.tables)),
            f"{model.workload.batch_size:,}",
            " ".join(f"{count} {kind}" for kind, count in outcome.kinds.items()),
            *(f"{1e3 * part:.1f}" for part in parts),
            f"{1e3 * prediction.step_seconds:.1f}",
            f"{1e3 * outcome.measured:.1f}",
            f"{1e3 * median:.1f}",
            f"{outcome.others:.0%}",
            f"{outcome.error:+.0%}",
        )
        report.metrics[f"{model.name}.predicted_ms{suffix}"] = 1e3 * prediction.step_seconds
        report.metrics[f"{model.name}.measured_ms{suffix}"] = 1e3 * outcome.measured
        report.metrics[f"{model.name}.measured_p50_ms{suffix}"] = 1e3 * median
        report.metrics[f"{model.name}.others{suffix}"] = outcome.others
        report.metrics[f"{model.name}.error{suffix}"] = outcome.error
    report.table.add_section()
    errors = np.abs([outcome.error for outcome in outcomes])
    report.metrics[f"predicted_step_time_median_error{suffix}"] = float(np.median(errors))
    report.metrics[f"predicted_step_time_worst_error{suffix}"] = float(np.max(errors))
    predicted = np.array([outcome.prediction.step_seconds for outcome in outcomes])
    correlation = spearmanr(predicted, np.array([outcome.measured for outcome in outcomes])).statistic
    report.metrics[f"predicted_vs_measured_rank_correlation{suffix}"] = float(correlation)
    report.notes.append(
        f"seed {seed}: median error {np.median(errors):.1%}, worst {np.max(errors):.1%}, rank correlation "
        f"{correlation:.3f}"
    )
