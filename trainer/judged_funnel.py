"""The exported funnel on test queries: judged by what users did next and, in a simulated world, by the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evaluation.baselines import Popularity
from evaluation.bootstrap import ClusterBootstrap
from evaluation.harness import evaluate_lists, top_lists
from evaluation.protocol import Queries
from evaluation.truth import slate_satisfaction
from foundation.errors import UserError
from foundation.progress import progress
from inputs.entities import SECONDS_PER_DAY
from inputs.simulate.truth import Truth
from retrieval.scorer import TwoTowerScorer
from retrieval.vectors import Vectors
from serving.funnel import Funnel
from serving.recommendation import Recommendation
from trainer.candidates import index_as_of
from trainer.workspace import Workspace

FUNNEL_QUERIES = 500
INDEX_BUILDS = 8  # at most so many over the test period, each as long as the stage "index" takes
SHOWN_USERS = 3

Metrics = dict[str, dict[str, dict[str, float | None]]]


def judge_funnel(workspace: Workspace, funnel: Funnel, queries: Queries) -> tuple[Metrics, list[dict[str, Any]]]:
    """Metrics by model (the funnel, and the two-tower's and popularity's own top lists of the same length), and each
    stage's median items and milliseconds."""
    job, space = workspace.job, workspace.space
    sample = np.sort(np.random.default_rng(job.seed).permutation(len(queries))[:FUNNEL_QUERIES])
    queries = queries.take(sample)
    size = job.postranking.slate_size
    vectors = Vectors(workspace.two_tower, space)
    slates, stages = _slates(workspace, funnel, vectors, queries, size)
    lists = {"funnel": slates}
    for scorer in (
        TwoTowerScorer(vectors),
        Popularity(workspace.interactions, len(space.items), workspace.split.validation_end),
    ):
        lists[scorer.name] = top_lists(scorer, queries, size, workspace.catalogue)
    config = job.evaluation.model_copy(update={"cutoffs": (size,)})
    metrics = evaluate_lists(lists, queries, config, workspace.catalogue, job.seed).to_json()
    truth = _truth(workspace)
    if truth is not None:
        bootstrap = ClusterBootstrap(queries.users, config.bootstrap_samples, config.confidence, job.seed)
        users = np.array(space.users.raw_ids(queries.users))
        items = np.array(space.items.raw_ids(np.arange(len(space.items))))
        for name, top in lists.items():
            for metric, judge in _true_metrics(truth, users, items, queries.times).items():
                metrics[name][metric] = bootstrap.mean(slate_satisfaction(top, judge, size)).to_json()
    return metrics, stages


def shown_slates(funnel: Funnel, queries: Queries) -> list[dict[str, Any]]:
    """A few users' slates in words, as they would be served now: those with the longest, a middling and no history."""
    order = np.argsort(queries.histories.lengths, kind="stable")
    users = dict.fromkeys(int(queries.users[order[place]]) for place in (-1, len(order) // 2, 0))
    slates = []
    for user in list(users)[:SHOWN_USERS]:
        slates.append(_in_words(funnel.recommend(funnel.space.users.raw_ids(np.array([user]))[0])))
    return slates


def _in_words(answer: Recommendation) -> dict[str, Any]:
    """A slate as the report shows it."""
    items = []
    for item in answer.items:
        title, *rest = item.words.values() or [str(item.item)]
        items.append({"title": title, "detail": ", ".join(rest), "scores": item.scores, "reason": item.reason})
    history = [next(iter(words.values()), "untitled") for words in answer.history]
    return {"user": str(answer.user), "history": history, "items": items}


def _slates(
    workspace: Workspace, funnel: Funnel, vectors: Vectors, queries: Queries, size: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """([Q, size] positions, medians by stage). Each query finds an index built before it was asked, of
    what was published then."""
    slates = np.full((len(queries), size), -1, np.int64)
    published = funnel.space.publication
    reports: dict[str, list[tuple[int, float]]] = {}
    built = rebuilds(queries.times)
    moment, unpublished = None, np.empty(0, np.int64)
    with progress("the funnel", len(queries), "queries") as meter:
        for row in np.argsort(built, kind="stable"):
            if built[row] != moment:
                moment = int(built[row])
                funnel = funnel.over(*index_as_of(workspace, vectors, moment))
                if published is not None:
                    unpublished = np.flatnonzero(published >= moment)
            now = int(queries.times[row])
            history, seen = queries.histories.row(row), queries.seen.row(row)
            answer = funnel.answer(int(queries.users[row]), history, seen, now, size, blocked=unpublished)
            slates[row, : len(answer.slate.items)] = answer.slate.items
            for stage in answer.stages:
                reports.setdefault(stage.stage, []).append((stage.items, stage.milliseconds))
            meter.advance()
    medians = {name: np.median(np.array(values), axis=0) for name, values in reports.items()}
    return slates, [
        {"stage": name, "items": int(items), "milliseconds": round(float(ms), 3)}
        for name, (items, ms) in medians.items()
    ]


def rebuilds(times: np.ndarray) -> np.ndarray:
    """[Q] the moment (seconds) the index that answers a query at `times` [Q] was built: the start of its day, or, when
    there are more than INDEX_BUILDS of those, of the first of its stretch of days."""
    days, day_of_query = np.unique(times // SECONDS_PER_DAY, return_inverse=True)
    stretches = np.array_split(days, min(len(days), INDEX_BUILDS))
    firsts = np.repeat([stretch[0] for stretch in stretches], [len(stretch) for stretch in stretches])
    return firsts[day_of_query] * SECONDS_PER_DAY


def _true_metrics(
    truth: Truth, users: np.ndarray, items: np.ndarray, times: np.ndarray
) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """By name, what the world knows of an item shown to a query's user: the probability of a click once looked at,
    of satisfaction once clicked, and of both. users, times: [Q]; items: [N] raw ids."""

    def clicked(rows: np.ndarray, shown: np.ndarray) -> np.ndarray:
        return truth.click_probability(users[rows], items[shown], np.zeros(len(rows), np.int64), times[rows])

    def satisfied(rows: np.ndarray, shown: np.ndarray) -> np.ndarray:
        return truth.satisfaction(users[rows], items[shown])

    return {
        "true_click": clicked,
        "true_satisfaction": satisfied,
        "true_satisfied_click": lambda rows, shown: clicked(rows, shown) * satisfied(rows, shown),
    }


def _truth(workspace: Workspace) -> Truth | None:
    """The truth of a simulated world; None behind a real log."""
    if workspace.job.inputs.format != "simulated":
        return None
    try:
        return Truth.open(workspace.dataset.path)
    except UserError:
        return None
