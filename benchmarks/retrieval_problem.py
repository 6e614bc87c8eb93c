"""One log as a problem of retrieval: what is asked in its validation and its test period, how answers are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evaluation.config import EvaluationConfig
from evaluation.harness import Scorer, top_lists
from evaluation.metrics import hits_of, ndcg
from evaluation.protocol import Queries
from trainer.job import Job, load_job
from trainer.pipeline import run_stages
from trainer.run_directory import RunDirectory
from trainer.stages.retrieval import VALIDATION_QUERIES
from trainer.workspace import Workspace

CUTOFFS = (20, 100)
METRIC = f"ndcg@{CUTOFFS[0]}"


class Problem:
    """A dataset under the global temporal split; every job over it is the same but for the settings it is given.

    tuned_from, judged_from: seconds; the validation period begins, the test period begins. test: the test's queries, at
    most so many as `evaluation` says.
    """

    def __init__(self, dataset: Path, folder: Path, evaluation: EvaluationConfig) -> None:
        """folder: for what jobs leave."""
        self.evaluation, self._dataset, self._folder = evaluation, dataset, folder
        folder.mkdir(parents=True)
        self.workspace = self.done({}, "data", ["data"])
        split = self.workspace.split
        self.tuned_from, self.judged_from = split.train_end, split.validation_end
        # those that a model in training is judged by, too
        self._validation, _ = self.workspace.queries(split.train_end, split.validation_end, VALIDATION_QUERIES)
        self.test, self.counts = self.workspace.queries(split.validation_end, split.end, evaluation.max_queries)

    def done(self, settings: Mapping[str, Any], run: str, stages: list[str]) -> Workspace:
        """The job with these settings, by dotted key, through some stages. run: names its run directory."""
        job, file = job_over(self._dataset, self._folder, run, self.evaluation, settings)
        workspace = Workspace(job, RunDirectory(self._folder / run), str(file))
        run_stages(workspace, stages)
        return workspace

    @property
    def sizes(self) -> tuple[int, int]:
        """(users, items) that positions name."""
        return len(self.workspace.space.users) + 1, len(self.workspace.space.items)

    def validate(self, scorer: Scorer, history: int) -> float:
        """NDCG@20 in the validation period. history: how many of a query's latest positives are shown."""
        lists = top_lists(scorer, self._shown(self._validation, history), CUTOFFS[0], self.workspace.catalogue)
        return float(ndcg(hits_of(lists, self._validation.relevant), self._validation.relevant, CUTOFFS[0]).mean())

    def answer(self, scorer: Scorer, history: int) -> np.ndarray:
        """[Q, 100] positions: its lists for the test's queries."""
        return top_lists(scorer, self._shown(self.test, history), CUTOFFS[-1], self.workspace.catalogue)

    def _shown(self, queries: Queries, history: int) -> Queries:
        histories = self.workspace.histories.before(queries.users, queries.times, history)
        return replace(queries, histories=histories)


def job_over(
    dataset: Path, folder: Path, name: str, evaluation: EvaluationConfig, settings: Mapping[str, Any]
) -> tuple[Job, Path]:
    """(the job, its file) over a dataset, with these settings by dotted key."""
    document = {
        "name": name,
        "inputs": {"format": "simulated", "path": str(dataset)},
        "evaluation": evaluation.model_dump(mode="json"),
        "training": {"checkpoint_every": 1_000_000},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_job(file, [f"{key}={json.dumps(value)}" for key, value in settings.items()]), file
