"""Retrieval judged honestly: our two-tower models against tuned baselines on whole logs, and what each option adds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.report import Report
from benchmarks.retrieval_baselines import BASELINES
from benchmarks.retrieval_leave_one_out import METRICS as LEAVE_ONE_OUT_METRICS
from benchmarks.retrieval_leave_one_out import judge as judge_leave_one_out
from benchmarks.retrieval_models import TwoTowerJobs
from benchmarks.retrieval_problem import CUTOFFS, METRIC, Problem
from benchmarks.retrieval_sets import LogSet, log_sets, world
from benchmarks.retrieval_settings import OPTIONS, QUICK, SASREC, TWO_TOWER, choices_for
from evaluation.bootstrap import Interval
from evaluation.config import EvaluationConfig
from evaluation.harness import evaluate_lists
from evaluation.tuning import Choices, Settings, Trial
from foundation.errors import UserError, nearest
from foundation.progress import say
from inputs.features import FeatureSpace

OURS, DEFAULT, LEAVE_ONE_OUT = "two_tower", "default", "leave-one-out"
SHOWN = (METRIC, *(f"recall@{k}" for k in CUTOFFS), f"coverage@{CUTOFFS[0]}")
SEED = 0


@dataclass(frozen=True)
class Sizes:
    """logs: what is judged on. budget: trials of our model and of each baseline. base: settings of all our models.
    choices: what of them is tuned, by the log's features. options: of the ablation, by name, what is changed in the
    default model; ablated: logs that it is shown on. sasrec: of the leave-one-out model; leave_one_out: logs that it is
    trained on."""

    logs: tuple[LogSet, ...]
    budget: int
    base: Settings
    choices: Callable[[FeatureSpace], Choices]
    options: Mapping[str, Settings]
    ablated: tuple[str, ...]
    sasrec: Settings
    leave_one_out: tuple[LogSet, ...]
    evaluation: EvaluationConfig


def full(only: Sequence[str] = ()) -> Sizes:
    """only: names of logs, or "leave-one-out"; (): all.

    Raises:
      UserError: there is no such log.
    """
    logs = log_sets()
    for name in only:
        if name not in (*logs, LEAVE_ONE_OUT):
            known = [*logs, LEAVE_ONE_OUT]
            raise UserError(f"there is no log '{name}' to judge retrieval on: {nearest(name, known)}")
    return Sizes(
        logs=tuple(log for name, log in logs.items() if name in only or not only),
        budget=6,
        base=TWO_TOWER,
        choices=choices_for,
        options=OPTIONS,
        ablated=("ml-100k",),
        sasrec=SASREC,
        leave_one_out=(logs["ml-100k"],) if LEAVE_ONE_OUT in only or not only else (),
        evaluation=EvaluationConfig(cutoffs=CUTOFFS, max_queries=4_000),
    )


def quick() -> Sizes:
    """A tiny world, to see that it runs."""
    return Sizes(
        logs=(world(users=150, items=150, days=8, impressions=8_000),),
        budget=2,
        base={**TWO_TOWER, **QUICK},
        choices=lambda _: {},
        options={"without logQ": OPTIONS["without logQ"]},
        ablated=("world",),
        sasrec={**SASREC, **QUICK, "retrieval.encoder": "bag"},  # whose graph is made in no time
        leave_one_out=(),
        evaluation=EvaluationConfig(cutoffs=CUTOFFS, max_queries=200, bootstrap_samples=100),
    )


def run(is_quick: bool, only: Sequence[str] = ()) -> Report:
    """Judges the logs that are on this machine; the others are named in a note. only: names of logs; (): all."""
    if is_quick and only:
        raise UserError("--quick judges on a tiny world of its own; found a --part too.", "Leave out one of the two.")
    return measure(quick() if is_quick else full(only), is_quick)


def measure(sizes: Sizes, is_quick: bool) -> Report:
    """`run`, at other sizes.

    Raises:
      UserError: no log is on this machine.
    """
    main = Table("log", "", *SHOWN, title="retrieval: test period, full ranking, seen items masked")
    ablation = Table("log", "default model", METRIC, f"adds to {METRIC}", title="retrieval: what each option adds")
    besides = Table("log", "", *LEAVE_ONE_OUT_METRICS, title="retrieval, leave-one-out: beside published figures")
    report = Report("retrieval", _protocol(sizes, is_quick), describe(), main, more_tables=[ablation, besides])
    for log, dataset, folder in _written(sizes.logs, report):
        problem = Problem(dataset, folder / "temporal", sizes.evaluation)
        _Log(report, sizes, log.name, problem).judge()
    for log, dataset, folder in _written(sizes.leave_one_out, report):
        judged = judge_leave_one_out(dataset, folder, {**sizes.sasrec, **log.every_event}, SEED)
        _add_leave_one_out(report, log.name, judged)
    if not report.metrics:
        raise UserError("retrieval: none of the logs is on this machine.", " ".join(report.notes))
    wins = [value >= 0 for name, value in report.metrics.items() if name.endswith("lead_over_best_baseline")]
    if wins:
        report.metrics["logs_won"], report.metrics["logs_judged"] = float(sum(wins)), float(len(wins))
    return report


def _written(logs: Sequence[LogSet], report: Report) -> Iterator[tuple[LogSet, Path, Path]]:
    """Each log, its dataset and a folder for what is made of it, gone when the next is asked for; one that is not on
    this machine is noted."""
    for log in logs:
        with tempfile.TemporaryDirectory() as folder:
            try:
                dataset = log.write(Path(folder) / "dataset")
            except UserError as absent:
                report.notes.append(str(absent))
                continue
            yield log, dataset, Path(folder)


def _protocol(sizes: Sizes, is_quick: bool) -> dict[str, object]:
    judge = {
        "split": "global, by time: 80 % training, 10 % validation, 10 % test",
        "tuning": f"at most {sizes.budget} trials of each by {METRIC} in the validation period, then trained on both",
        "queries": f"each (user, time) of the period with a new positive, at most {sizes.evaluation.max_queries}",
    }
    besides = {"leave-one-out": "each user's last item tests, the one before validates; no tuning; seen items masked"}
    return {
        "quick": is_quick,
        **(judge if sizes.logs else {}),
        **(besides if sizes.leave_one_out else {}),
        "intervals": f"{sizes.evaluation.confidence:.0%}, {sizes.evaluation.bootstrap_samples} bootstraps over users",
    }


class _Log:
    """One log's rows of the report."""

    def __init__(self, report: Report, sizes: Sizes, name: str, problem: Problem) -> None:
        self._report, self._sizes, self._name, self._problem = report, sizes, name, problem
        self._lists: dict[str, np.ndarray] = {}
        self._tried: dict[str, list[Trial]] = {}

    def judge(self) -> None:
        jobs = TwoTowerJobs(self._problem, self._sizes.base)
        choices = self._sizes.choices(self._problem.workspace.space)
        best = self._note(OURS, jobs.tuned(choices, self._sizes.budget, SEED))
        epochs = jobs.epochs(best)
        self._lists[OURS] = jobs.answer(best, epochs)
        for baseline in BASELINES:
            say(f"{self._name}: tuning {baseline.name}")
            settings = self._note(baseline.name, baseline.tuned(self._problem, self._sizes.budget, SEED))
            self._lists[baseline.name] = baseline.answer(self._problem, settings)
        self._add_main()
        if self._name not in self._sizes.ablated:
            return
        default = {name: values[0] for name, values in choices.items()}
        ablated = {DEFAULT: self._lists[OURS] if default == best else jobs.answer(default, jobs.epochs(default))}
        for option, change in self._sizes.options.items():
            ablated[option] = jobs.answer({**default, **change}, jobs.epochs(default))
        self._add_ablation(ablated)

    def _note(self, model: str, trials: list[Trial]) -> Settings:
        """Keeps what was tried; returns the best."""
        best = trials[0]
        self._report.tried.setdefault(self._name, {})[model] = [[trial.settings, trial.value] for trial in trials]
        if best.settings:
            told = {name: value for name, value in best.settings.items() if not isinstance(value, list)}
            chosen = ", ".join(f"{name} {value}" for name, value in told.items())
            self._report.notes.append(f"{self._name}: {model}: validation {METRIC} {best.value:.4f} with {chosen}")
        return best.settings

    def _add_main(self) -> None:
        problem, metrics, table = self._problem, self._report.metrics, self._report.table
        judged = evaluate_lists(
            self._lists, problem.test, self._sizes.evaluation, problem.workspace.catalogue, problem.workspace.job.seed
        )
        for model, values in judged.metrics.items():
            table.add_row(self._name if model == OURS else "", model, *(_shown(values[metric]) for metric in SHOWN))
            for metric in SHOWN:
                _add(metrics, f"{self._name}.{model}.{metric}", values[metric])
        baselines = {model: judged.metrics[model][METRIC].value for model in self._lists if model != OURS}
        best = max(baselines, key=lambda model: baselines[model])
        lead = judged.leads(OURS, METRIC)[best]
        table.add_row("", f"lead over {best}", _shown(lead, signed=True))
        table.add_section()
        _add(metrics, f"{self._name}.lead_over_best_baseline", lead)
        metrics[f"{self._name}.{METRIC}_vs_best_baseline"] = judged.metrics[OURS][METRIC].value / baselines[best]

    def _add_ablation(self, lists: dict[str, np.ndarray]) -> None:
        problem, table = self._problem, self._report.more_tables[0]
        judged = evaluate_lists(
            lists, problem.test, self._sizes.evaluation, problem.workspace.catalogue, problem.workspace.job.seed
        )
        for option in lists:
            value = judged.metrics[option][METRIC]
            row = [self._name if option == DEFAULT else "", option, _shown(value)]
            _add(self._report.metrics, f"{self._name}.{option}.{METRIC}", value)
            if option != DEFAULT:
                adds = judged.leads(option, METRIC)[DEFAULT]
                _add(self._report.metrics, f"{self._name}.{option}.adds", adds)
                row.append(_shown(adds, signed=True))
            table.add_row(*row)
        table.add_section()


def _add_leave_one_out(report: Report, name: str, judged: dict[str, dict[str, Interval]]) -> None:
    for place, (model, values) in enumerate(judged.items()):
        shown = "sasrec" if model == OURS else model
        report.more_tables[1].add_row("" if place else name, shown, *(f"{values[m].value:.4f}" for m in values))
        for metric, value in values.items():
            _add(report.metrics, f"{name}.leave_one_out.{shown}.{metric}", value)
    report.more_tables[1].add_section()


def _shown(interval: Interval, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _add(metrics: dict[str, float], name: str, interval: Interval) -> None:
    """The value and the ends of its interval; an end that could not be measured is left out."""
    metrics[name] = interval.value
    for end in ("low", "high"):
        if np.isfinite(getattr(interval, end)):
            metrics[f"{name}.{end}"] = getattr(interval, end)
