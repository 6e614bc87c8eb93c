"""One harness for all: what may not be answered never is, order is exact, and a broken scorer is named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from evaluation import harness
from evaluation.bootstrap import ClusterBootstrap, lead
from evaluation.config import EvaluationConfig
from evaluation.harness import Catalogue, evaluate, evaluate_lists, top_lists
from evaluation.protocol import Queries
from foundation.errors import UserError
from inputs.ragged import Ragged

CONFIG = EvaluationConfig(cutoffs=(2, 4), bootstrap_samples=100)


class Table:
    """A scorer that looks its scores up by (user, item)."""

    def __init__(self, table, name="table"):
        self.table, self.name = np.asarray(table), name

    def scores(self, queries):
        return self.table[queries.users]


def queries_of(seen, relevant, times=None):
    """Query q is of user q."""
    users = np.arange(len(seen))
    times = np.full(len(seen), 100) if times is None else np.asarray(times)
    seen = Ragged.from_rows(seen)
    return Queries(users, times, seen, seen, Ragged.from_rows(relevant))


@st.composite
def asked(draw):
    """(scores [Q, N] with many ties, queries, k, available_from)."""
    size, items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    scores = draw(st.lists(st.lists(st.integers(-2, 2), min_size=items, max_size=items), min_size=size, max_size=size))
    seen = [sorted(draw(st.sets(st.integers(0, items - 1)))) for _ in range(size)]
    times = draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    available = draw(st.none() | st.lists(st.integers(0, 5), min_size=items, max_size=items))
    queries = queries_of(seen, [[0]] * size, times)
    return np.array(scores, np.float32), queries, draw(st.integers(1, 12)), available


@settings(deadline=None, max_examples=200)
@given(asked(), st.integers(1, 30))
def test_top_lists_equal_sorting_what_is_allowed(case, cells):
    scores, queries, k, available = case
    kept = scores.copy()
    catalogue = Catalogue(scores.shape[1], None, None if available is None else np.array(available))
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "CELLS_AT_ONCE", cells)  # however the queries are cut into chunks
        top = top_lists(Table(scores), queries, k, catalogue, done.append)
    assert top.shape == (len(queries), k)
    assert sum(done) == len(queries)
    for row in range(len(queries)):
        allowed = [
            item
            for item in range(scores.shape[1])
            if item not in queries.seen.row(row) and (available is None or available[item] < queries.times[row])
        ]
        best = sorted(allowed, key=lambda item: (-scores[row, item], item))[:k]
        assert top[row].tolist() == best + [-1] * (k - len(best))
    np.testing.assert_array_equal(scores, kept)


def test_a_larger_catalogue_with_ties_at_the_border():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 30, (20, 2_000)).astype(np.float32)
    top = top_lists(Table(scores), queries_of([[]] * 20, [[0]] * 20), 100, Catalogue(2_000))
    np.testing.assert_array_equal(top, np.argsort(-scores, axis=1, kind="stable")[:, :100])


def test_a_score_of_minus_infinity_is_no_answer_and_of_infinity_is_the_first():
    scores = np.array([[-np.inf, 1.0, np.inf]])
    top = top_lists(Table(scores), queries_of([[]], [[0]]), 3, Catalogue(3))
    assert top.tolist() == [[2, 1, -1]]


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (np.array([[0.0, np.nan, 1.0]]), "NaN"),
        (np.zeros((1, 2)), r"shape \(1, 2\), \(1, 3\) is wanted"),
        (np.zeros((1, 3, 1)), "shape"),
        (np.zeros((1,)), "shape"),
    ],
)
def test_a_broken_scorer_is_named(scores, told):
    with pytest.raises(UserError, match=f"scorer 'mine': .*{told}"):
        top_lists(Table(scores, "mine"), queries_of([[]], [[0]]), 2, Catalogue(3))


def test_nothing_to_judge_by_is_a_user_error():
    with pytest.raises(UserError, match="no query"):
        evaluate([Table(np.zeros((0, 3)))], queries_of([], []), CONFIG, Catalogue(3))


def test_metrics_of_a_case_done_by_hand():
    #            user 0 likes item 1 most, 1 has been seen   user 1 gets 3, 2, 1, 0
    scores = [[0.1, 0.9, 0.5, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4, 0.0]]
    queries = queries_of([[1], []], [[3], [0, 4]])
    categories = csr_matrix(np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]]))
    judged = evaluate([Table(scores)], queries, CONFIG, Catalogue(5, categories))
    values = judged.per_query["table"]  # lists: 2 3 4 0 and 3 2 1 0
    assert set(judged.metrics["table"]) == {
        *(f"{metric}@{k}" for metric in ("ndcg", "recall", "hit_rate", "coverage") for k in (2, 4)),
        "mrr",
        "diversity@2",
    }
    np.testing.assert_allclose(values["recall@2"], [1.0, 0.0])
    np.testing.assert_allclose(values["recall@4"], [1.0, 0.5])
    np.testing.assert_allclose(values["hit_rate@4"], [1.0, 1.0])
    np.testing.assert_allclose(values["mrr"], [1 / 2, 1 / 4])
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(values["ndcg@4"], [1 / np.log2(3), 1 / np.log2(5) / ideal])
    np.testing.assert_allclose(values["diversity@2"], [0.5, 0.5])
    means = judged.metrics["table"]
    assert means["recall@4"].value == pytest.approx(0.75)
    assert means["coverage@2"].value == pytest.approx(2 / 5)
    assert means["coverage@4"].value == pytest.approx(5 / 5)


def world(seed=0, users=30, queries=80, items=40):
    rng = np.random.default_rng(seed)
    relevant = [sorted(rng.choice(items, rng.integers(1, 4), replace=False)) for _ in range(queries)]
    empty = Ragged.from_rows([[]] * queries)
    asked = Queries(
        np.sort(rng.integers(0, users, queries)), np.arange(queries), empty, empty, Ragged.from_rows(relevant)
    )
    return asked, rng.random((users, items)), rng.random((users, items))


def test_intervals_and_leads_are_those_of_the_bootstrap_over_users():
    queries, good, bad = world()
    judged = evaluate([Table(good, "a"), Table(bad, "b")], queries, CONFIG, Catalogue(40), seed=3)
    bootstrap = ClusterBootstrap(queries.users, 100, 0.95, 3)
    for name in ("a", "b"):
        for metric, values in judged.per_query[name].items():
            assert judged.metrics[name][metric] == bootstrap.mean(values)
    own, other = (judged.per_query[name]["recall@4"] for name in ("a", "b"))
    assert judged.leads("a", "recall@4") == {"b": lead(own, other, queries.users, 100, 0.95, 3)}


def test_the_same_evaluation_twice_and_in_other_chunks(monkeypatch):
    queries, table, _ = world()
    whole = evaluate([Table(table)], queries, CONFIG, Catalogue(40)).to_json()
    monkeypatch.setattr(harness, "CELLS_AT_ONCE", 100)
    assert evaluate([Table(table)], queries, CONFIG, Catalogue(40)).to_json() == whole


def test_lists_from_an_index_or_a_funnel_are_judged_alike():
    queries, table, _ = world()
    top = top_lists(Table(table), queries, 4, Catalogue(40))
    judged = evaluate_lists({"table": top}, queries, CONFIG, Catalogue(40))
    assert judged.to_json() == evaluate([Table(table)], queries, CONFIG, Catalogue(40)).to_json()
    short = evaluate_lists({"slate": top[:, :3]}, queries, CONFIG, Catalogue(40))  # a slate shorter than a cutoff
    padded = np.concatenate([top[:, :3], np.full((len(top), 1), -1)], axis=1)
    assert short.to_json() == evaluate_lists({"slate": padded}, queries, CONFIG, Catalogue(40)).to_json()


def test_cutoffs_beyond_the_catalogue():
    config = EvaluationConfig(cutoffs=(2, 100), bootstrap_samples=100)
    queries, table, _ = world()
    judged = evaluate([Table(table)], queries, config, Catalogue(40))
    np.testing.assert_array_equal(judged.per_query["table"]["recall@100"], 1.0)
    assert judged.metrics["table"]["coverage@100"].value == 1.0


@pytest.mark.parametrize("cutoffs", [(), (0,), (20, 10), (5, 5)])
def test_cutoffs_ascend_from_one(cutoffs):
    with pytest.raises(ValueError, match="cutoff"):
        EvaluationConfig(cutoffs=cutoffs)
