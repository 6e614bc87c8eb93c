"""Stage "evaluate": models, baselines and the funnel on the test period, which nothing was trained or chosen on."""

from __future__ import annotations

from typing import Any

from evaluation.baselines import ItemKNN, Popularity, RecentPopularity
from evaluation.harness import Evaluation, Scorer, evaluate
from evaluation.protocol import Queries
from foundation.files import write_json
from foundation.progress import progress
from retrieval.scorer import TwoTowerScorer
from retrieval.vectors import Vectors
from serving.funnel import Funnel
from trainer.judged_funnel import judge_funnel, shown_slates
from trainer.ranked import Predictor, judge, sampled
from trainer.workspace import Workspace

TEST_LISTS = 20_000


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves metrics.json; the facts are what the report says beside it."""
    job, split = workspace.job, workspace.split
    queries, counts = workspace.queries(split.validation_end, split.end, job.evaluation.max_queries)
    retrieval = _retrieval(workspace, queries)
    funnel = Funnel.load(workspace.run.path)
    judged, stages = judge_funnel(workspace, funnel, queries)
    metric = job.evaluation.main_metric
    leads = retrieval.leads(TwoTowerScorer.name, metric)
    document = {
        "retrieval": retrieval.to_json(),
        "leads": {f"{TwoTowerScorer.name}_over_{name}": {metric: lead.to_json()} for name, lead in leads.items()},
        "ranking": _ranking(workspace),
        "funnel": judged,
    }
    write_json(workspace.run.metrics, document)
    return {"queries": counts, "stages": stages, "slates": shown_slates(funnel, queries)}


def _retrieval(workspace: Workspace, queries: Queries) -> Evaluation:
    """The baselines know everything before the test period, validation included; the model only the training period."""
    job, log, start = workspace.job, workspace.interactions, workspace.split.validation_end
    users, items = len(workspace.space.users), len(workspace.space.items)
    scorers: list[Scorer] = [
        TwoTowerScorer(Vectors(workspace.two_tower, workspace.space)),
        Popularity(log, items, start),
        RecentPopularity(log, items, job.evaluation.recent_days),
        ItemKNN(log, users, items, start, job.evaluation.item_knn_neighbours),
    ]
    with progress("judging", len(scorers) * len(queries), "queries") as meter:
        return evaluate(scorers, queries, job.evaluation, workspace.catalogue, job.seed, meter.advance)


def _ranking(workspace: Workspace) -> dict[str, dict[str, dict[str, float | None]]]:
    job, split = workspace.job, workspace.split
    lists = workspace.lists(split.validation_end, split.end)
    predictor = Predictor(workspace.ranker, workspace.space, workspace.histories, job.inputs.history_length)
    predicted = predictor.predict(lists, sampled(lists, TEST_LISTS, job.seed))
    judged = judge(predicted, workspace.ranker.objectives, job.evaluation, job.seed)
    return {name: {metric: i.to_json() for metric, i in metrics.items()} for name, metrics in judged.items()}


def intact(workspace: Workspace) -> bool:
    return workspace.run.metrics.exists()
