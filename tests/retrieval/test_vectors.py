"""Vectors of many rows, and the evaluation's scores, are the model's own."""

from dataclasses import dataclass

import numpy as np
import pytest

import retrieval.vectors
from foundation.tensors import to_tensors
from inputs.ragged import Ragged
from retrieval.config import RetrievalConfig
from retrieval.scorer import TwoTowerScorer
from retrieval.two_tower import TwoTower
from retrieval.vectors import Vectors

DAY = 86_400


@dataclass(frozen=True)
class Queries:
    users: np.ndarray
    times: np.ndarray
    histories: Ragged


@pytest.fixture(scope="module")
def model(log):
    config = RetrievalConfig(embedding_dim=4, units=(8,), dim=6)
    return TwoTower(log.space.query_features, log.space.item_features, config, seed=2)


@pytest.fixture(scope="module")
def queries(log):
    times = np.array([9, 5, 9, 5, 7]) * DAY + np.array([0, 100, 50_000, DAY - 1, 3])
    users = np.array([3, 1, 0, 30, 3])
    return Queries(users, times, log.histories.before(users, times, 8))


def test_vectors_are_the_models_whatever_the_block(log, model, queries, monkeypatch):
    monkeypatch.setattr(retrieval.vectors, "ROWS_PER_BLOCK", 3)
    vectors = Vectors(model, log.space)
    inputs = log.space.query_inputs(queries.users, queries.histories)
    asked, candidates = vectors.queries(queries.users, queries.histories), vectors.candidates(log.end)
    assert asked.dtype == candidates.dtype == np.float32
    np.testing.assert_allclose(asked, model.embed_queries(to_tensors(inputs)), atol=1e-6)
    items = log.space.item_inputs(np.arange(40), log.end)
    np.testing.assert_allclose(candidates, model.embed_items(to_tensors(items)), atol=1e-6)


def test_scores_are_inner_products_with_the_candidates_of_the_querys_day(log, model, queries):
    scores = TwoTowerScorer(Vectors(model, log.space)).scores(queries)
    assert scores.shape == (5, 40)
    assert scores.dtype == np.float32
    asked = model.embed_queries(to_tensors(log.space.query_inputs(queries.users, queries.histories))).numpy()
    for row, time in enumerate(queries.times):
        midnight = int(time) // DAY * DAY
        items = model.embed_items(to_tensors(log.space.item_inputs(np.arange(40), midnight))).numpy()
        np.testing.assert_allclose(scores[row], items @ asked[row], atol=1e-5)


def test_a_query_is_scored_alike_alone_and_among_others(log, model, queries):
    scorer = TwoTowerScorer(Vectors(model, log.space))
    together = scorer.scores(queries)
    for row in range(5):
        rows = np.array([row])
        alone = scorer.scores(Queries(queries.users[rows], queries.times[rows], queries.histories.take(rows)))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_vectors_follow_the_model_as_it_trains(log, model, queries):
    vectors = Vectors(model, log.space)
    before = vectors.candidates(log.end)
    table = model.embedding.table("item_id")
    kept = table.numpy()
    table.assign(kept + 1.0)
    after = vectors.candidates(log.end)
    table.assign(kept)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(vectors.candidates(log.end), before, atol=1e-6)
