"""The retrieval suite: every model spends the same budget and is judged on the same queries; what was tried is told."""

import json
import math

import numpy as np
import pytest

from benchmarks import retrieval_suite
from benchmarks.retrieval_baselines import BASELINES, Baseline
from benchmarks.retrieval_leave_one_out import METRICS, judge
from benchmarks.retrieval_sets import log_sets, world
from evaluation.baselines import Popularity
from foundation.errors import UserError


@pytest.fixture(scope="module")
def report():
    return retrieval_suite.run(True)


@pytest.mark.long
def test_a_quick_run_judges_every_model_and_tells_what_was_tried(report):
    assert all(math.isfinite(value) for value in report.metrics.values())
    models = ["two_tower", *(baseline.name for baseline in BASELINES)]
    ndcg = {model: report.metrics[f"world.{model}.ndcg@20"] for model in models}
    for model in models:
        for metric in ("ndcg@20", "recall@20", "recall@100", "coverage@20"):
            low, value, high = (report.metrics[f"world.{model}.{metric}{end}"] for end in (".low", "", ".high"))
            assert low <= value <= high
    best = max(value for model, value in ndcg.items() if model != "two_tower")
    assert report.metrics["world.lead_over_best_baseline"] == pytest.approx(ndcg["two_tower"] - best)
    assert report.metrics["world.ndcg@20_vs_best_baseline"] == pytest.approx(ndcg["two_tower"] / best)
    assert report.metrics["logs_judged"] == 1
    added = report.metrics["world.without logQ.ndcg@20"] - report.metrics["world.default.ndcg@20"]
    assert report.metrics["world.without logQ.adds"] == pytest.approx(added)
    tried = json.loads(json.dumps(report.document()))["protocol"]["tried"]["world"]
    untuned = ("two_tower", "popularity")  # a quick run tunes no model of ours
    assert {model: len(trials) for model, trials in tried.items()} == {m: 1 if m in untuned else 2 for m in models}
    for trials in tried.values():
        assert [value for _, value in trials] == sorted((value for _, value in trials), reverse=True)


@pytest.mark.long
def test_leave_one_out_trains_a_model_and_judges_it_beside_baselines(tmp_path):
    dataset = world(users=150, items=150, days=8, impressions=8_000).write(tmp_path / "log")
    judged = judge(dataset, tmp_path, retrieval_suite.quick().sasrec)
    assert list(judged) == ["two_tower", "popularity", "item_knn", "ease", "ials"]
    for values in judged.values():
        assert list(values) == list(METRICS)
        assert all(0 <= interval.low <= interval.value <= interval.high <= 1 for interval in values.values())


def test_logs_that_are_absent_are_named_in_a_note(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path))
    absent = [log for name, log in log_sets().items() if name != "world"]
    assert {log.name for log in absent} == {"ml-100k", "ml-latest-small", "amazon-grocery"}
    for log in absent:
        with pytest.raises(UserError, match=f"{log.name} was left out: {tmp_path}.* is not there"):
            log.write(tmp_path / "out")
    with pytest.raises(UserError, match="none of the logs is on this machine"):
        retrieval_suite.run(False, ["ml-100k"])
    with pytest.raises(UserError, match="did you mean 'ml-100k'"):
        retrieval_suite.full(["ml100k"])


def test_a_baseline_is_fitted_once_for_settings_that_differ_in_the_history_alone(tmp_path):
    fitted, asked = [], []

    class Tiny:
        def __init__(self):
            self.tuned_from = 5

        def validate(self, scorer, history):
            asked.append(history)
            return history / 10 + scorer

    def make(problem, until, settings):
        assert until == 5
        fitted.append(settings["size"])
        return settings["size"]

    baseline = Baseline("tiny", {"size": (1, 2), "history": (3, 4)}, make)
    trials = baseline.tuned(Tiny(), 4, seed=0)
    assert sorted(fitted) == [1, 2]
    assert sorted(asked) == [3, 3, 4, 4]
    assert trials[0].settings == {"size": 2, "history": 4}


def test_a_problem_shows_a_baseline_as_much_history_as_it_asks_for(tmp_path):
    sizes = retrieval_suite.quick()
    dataset = world(users=60, items=100, days=5, impressions=3_000).write(tmp_path / "log")
    problem = retrieval_suite.Problem(dataset, tmp_path / "problem", sizes.evaluation)
    seen = []

    class Watching(Popularity):
        def scores(self, queries):
            seen.append(queries.histories.lengths.max())
            assert (queries.times >= problem.judged_from).all()
            return super().scores(queries)

    popular = Watching(problem.workspace.interactions, problem.sizes[1], problem.judged_from)
    lists = [problem.answer(popular, history) for history in (0, 2, 1_000)]
    assert seen[:2] == [0, 2]
    assert seen[2] > 2
    assert all(np.array_equal(lists[0], other) for other in lists)  # what is masked does not depend on it
