"""Metrics of top-K lists equal the textbook loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from evaluation import metrics
from inputs.ragged import Ragged

ITEMS = 12


@st.composite
def judged(draw):
    """(top [Q, K] with -1 at the ends, relevant rows, k)."""
    size, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    top = np.full((size, width), -1, np.int64)
    for row in range(size):
        shown = draw(st.lists(st.integers(0, ITEMS - 1), max_size=width, unique=True))
        top[row, : len(shown)] = shown
    relevant = [sorted(draw(st.sets(st.integers(0, ITEMS - 1), min_size=1, max_size=8))) for _ in range(size)]
    return top, relevant, draw(st.integers(1, 8))


@settings(deadline=None, max_examples=150)
@given(judged())
def test_accuracy_metrics_equal_their_definitions(case):
    top, relevant, k = case
    ragged = Ragged.from_rows(relevant)
    hits = metrics.hits_of(top, ragged)
    recall, hit_rate = metrics.recall(hits, ragged, k), metrics.hit_rate(hits, k)
    ndcg, reciprocal = metrics.ndcg(hits, ragged, k), metrics.reciprocal_rank(hits)
    for row, right in enumerate(relevant):
        shown = top[row].tolist()
        np.testing.assert_array_equal(hits[row], [item in right for item in shown])
        found = [item for item in shown[:k] if item in right]
        assert recall[row] == pytest.approx(len(found) / len(right))
        assert hit_rate[row] == float(bool(found))
        gained = sum(1 / math.log2(place + 2) for place, item in enumerate(shown[:k]) if item in right)
        best = sum(1 / math.log2(place + 2) for place in range(min(k, len(right))))
        assert ndcg[row] == pytest.approx(gained / best)
        ranks = [place + 1 for place, item in enumerate(shown) if item in right]
        assert reciprocal[row] == pytest.approx(1 / ranks[0] if ranks else 0.0)


def test_a_perfect_list_has_ndcg_one_even_when_more_is_relevant_than_fits():
    relevant = Ragged.from_rows([[0, 1, 2, 3], [5]])
    hits = metrics.hits_of(np.array([[3, 0], [5, 7]]), relevant)
    np.testing.assert_allclose(metrics.ndcg(hits, relevant, 2), [1.0, 1.0])


def test_hits_of_nothing_shown_or_nothing_asked():
    relevant = Ragged.from_rows([[0], [1]])
    assert not metrics.hits_of(np.full((2, 3), -1), relevant).any()
    assert metrics.hits_of(np.empty((0, 3), np.int64), Ragged.from_rows([])).shape == (0, 3)


@settings(deadline=None, max_examples=100)
@given(judged(), st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=ITEMS, max_size=ITEMS))
def test_diversity_is_the_mean_jaccard_distance_of_pairs(case, tags):
    top, _, k = case
    ragged = Ragged.from_rows(tags)  # a tag may stand twice in a row, as two out-of-vocabulary tags do
    categories = csr_matrix((np.ones(len(ragged.values), np.float32), ragged.values, ragged.row_splits), (ITEMS, 5))
    before = categories.toarray()
    got = metrics.intra_list_diversity(top, categories, k)
    for row in range(len(top)):
        shown = [set(tags[item]) for item in top[row, :k] if item >= 0]
        pairs = [(a, b) for place, a in enumerate(shown) for b in shown[:place]]
        distances = [1 - len(a & b) / len(a | b) if a | b else 0.0 for a, b in pairs]
        np.testing.assert_allclose(got[row], np.mean(distances) if pairs else np.nan)
    np.testing.assert_array_equal(categories.toarray(), before)


@settings(deadline=None, max_examples=100)
@given(judged(), st.data())
def test_coverage_without_each_user_equals_leaving_them_out(case, data):
    top, _, k = case
    clusters = 3
    codes = np.array(data.draw(st.lists(st.integers(0, clusters - 1), min_size=len(top), max_size=len(top))))
    shown = metrics.shown_by_cluster(top, codes, clusters, ITEMS, k)
    assert set(shown.data.tolist()) <= {1.0}
    coverage, without = metrics.coverage_without_each(shown)

    def share(rows):
        return len({item for row in rows for item in top[row, :k].tolist() if item >= 0}) / ITEMS

    assert coverage == pytest.approx(share(range(len(top))))
    for cluster in range(clusters):
        assert without[cluster] == pytest.approx(share(np.flatnonzero(codes != cluster)))
