"""Our two-tower models in the `retrieval` benchmark: trained as jobs, by their settings."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.retrieval_problem import METRIC, Problem
from benchmarks.retrieval_settings import spelled_out
from evaluation.tuning import Choices, Settings, Trial, tune
from retrieval.scorer import TwoTowerScorer
from retrieval.vectors import Vectors
from trainer.curves import read_curves
from trainer.workspace import Workspace

_STAGES = ["data", "retrieval"]


@dataclass
class TwoTowerJobs:
    """base: settings of each job, by dotted key as `--set` takes them; epochs at most and patience among them."""

    problem: Problem
    base: Settings
    _epochs: dict[str, int] = field(default_factory=dict)
    _runs: int = 0

    def tuned(self, choices: Choices, budget: int, seed: int) -> list[Trial]:
        """Trials, best first. A model is judged on the validation period after each epoch; its best epoch counts."""
        return tune(choices, budget, self._validated, seed)

    def epochs(self, settings: Settings) -> int:
        """After how many epochs a trial's model was best."""
        return self._epochs[str(settings)]

    def answer(self, settings: Settings, epochs: int) -> np.ndarray:
        """[Q, 100] positions for the test's queries of a model trained for so many epochs on all that came before them,
        the validation period included."""
        workspace = self._done({**settings, "retrieval.epochs": epochs, "inputs.split.validation": 0})
        scorer = TwoTowerScorer(Vectors(workspace.two_tower, workspace.space))
        lists = self.problem.answer(scorer, workspace.job.inputs.history_length)
        shutil.rmtree(workspace.run.path)
        return lists

    def _validated(self, settings: Settings) -> float:
        workspace = self._done(settings)
        judged = [point["value"] for point in read_curves(workspace.run.curves) if point["metric"] == _VALIDATION]
        shutil.rmtree(workspace.run.path)
        self._epochs[str(settings)] = int(np.argmax(judged)) + 1
        return max(judged)

    def _done(self, settings: dict[str, Any]) -> Workspace:
        self._runs += 1
        return self.problem.done(spelled_out({**self.base, **settings}), f"two-tower-{self._runs}", _STAGES)


_VALIDATION = f"validation_{METRIC}"
