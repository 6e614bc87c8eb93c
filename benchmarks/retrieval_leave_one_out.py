"""Leave-one-out figures of SASRec and baselines: to be set next to published ones, not to judge by."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.retrieval_problem import job_over
from evaluation.baselines import EASE, IALS, ItemKNN, Popularity
from evaluation.bootstrap import Interval
from evaluation.config import EvaluationConfig
from evaluation.harness import Catalogue, Scorer, evaluate
from evaluation.leave_one_out import CUTOFF, LeaveOneOut, leave_one_out, sampled_metrics
from evaluation.protocol import Queries
from evaluation.tuning import Settings
from inputs.dataset import Dataset
from inputs.features import FeatureSpace
from inputs.interactions import Interactions
from inputs.splits import Split
from retrieval.scorer import TwoTowerScorer
from retrieval.vectors import Vectors
from trainer.pipeline import run_stages
from trainer.run_directory import RunDirectory
from trainer.workspace import Workspace

METRICS = (f"ndcg@{CUTOFF}", f"hit_rate@{CUTOFF}", f"sampled_ndcg@{CUTOFF}", f"sampled_hit_rate@{CUTOFF}")


class LeaveOneOutWorkspace(Workspace):
    """A job that trains on all but each user's last two positives, and is validated on the last but one."""

    @cached_property
    def parts(self) -> LeaveOneOut:
        interactions = Interactions.from_dataset(self.dataset, self.space, self.job.inputs.positive)
        return leave_one_out(interactions, self.job.inputs.history_length)

    @cached_property
    def _opened(self) -> tuple[FeatureSpace, Interactions]:
        space, interactions = super()._opened
        training = leave_one_out(interactions, self.job.inputs.history_length).training
        space.follow(training)
        return space, training

    def split_of(self, dataset: Dataset) -> Split:
        """No time divides this protocol: what is held out is, by user."""
        end = int(dataset.time_range[1]) + 1
        return Split(train_end=end, validation_end=end + 1, end=end + 1)

    def queries(self, start: int, stop: int, most: int) -> tuple[Queries, dict[str, int]]:
        """Those of the validation, whatever the period."""
        validation = self.parts.validation
        chosen = np.sort(np.random.default_rng(self.job.seed).permutation(len(validation))[:most])
        return validation.take(chosen), {}


def judge(dataset: Path, folder: Path, settings: Settings, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """{model: {metric: interval}} of `METRICS`, for popularity, ItemKNN, EASE, iALS and the two-tower model of these
    settings. folder: for what the job leaves."""
    evaluation = EvaluationConfig(cutoffs=(CUTOFF,))
    job, file = job_over(dataset, folder, "leave-one-out", evaluation, settings)
    workspace = LeaveOneOutWorkspace(job, RunDirectory(folder / "leave-one-out"), str(file))
    run_stages(workspace, ["data", "retrieval"])
    parts, log = workspace.parts, workspace.interactions
    users, items, end = len(workspace.space.users) + 1, len(workspace.space.items), workspace.split.train_end
    scorers: list[Scorer] = [
        TwoTowerScorer(Vectors(workspace.two_tower, workspace.space)),
        Popularity(log, items, end),
        ItemKNN(log, users, items, end),
        EASE(log, users, items, end),
        IALS(log, users, items, end),
    ]
    judged = evaluate(scorers, parts.test, evaluation, Catalogue(items), seed)
    sampled = {scorer.name: sampled_metrics(scorer, parts.test, items, evaluation, seed) for scorer in scorers}
    return {
        name: {metric: {**metrics, **sampled[name]}[metric] for metric in METRICS}
        for name, metrics in judged.metrics.items()
    }
