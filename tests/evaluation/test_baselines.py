"""Baselines equal naive versions of themselves and know nothing of the future."""

import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from evaluation.baselines import EASE, IALS, Factorisation, ItemKNN, Popularity, RecentPopularity, ials, item_knn
from evaluation.baselines.ials import factorise
from evaluation.baselines.popularity import SECONDS_PER_DAY as DAY
from evaluation.config import EvaluationConfig
from evaluation.harness import Catalogue, evaluate, top_lists
from evaluation.protocol import Queries
from inputs.ragged import Ragged

USERS, ITEMS = 6, 7
EVENTS = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 20)), max_size=50)


def log_of(events):
    """Positives (user, item, time) in time order."""
    events = sorted(events, key=lambda event: event[2])
    users, items, times = (np.array([event[part] for event in events], np.int64) for part in range(3))
    return SimpleNamespace(users=users, items=items, times=times)


def queries_of(histories, times=None):
    size = len(histories)
    times = np.full(size, 100) if times is None else np.asarray(times)
    empty = Ragged.from_rows([[]] * size)
    return Queries(np.arange(size), times, Ragged.from_rows(histories), empty, Ragged.from_rows([[0]] * size))


@settings(deadline=None, max_examples=50)
@given(EVENTS, st.integers(0, 21))
def test_popularity_counts_positives_before_until(events, until):
    got = Popularity(log_of(events), ITEMS, until).scores(queries_of([[], [1]]))
    counts = Counter(item for _, item, time in events if time < until)
    assert got.tolist() == [[counts[item] for item in range(ITEMS)]] * 2


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.just(1), st.integers(0, ITEMS - 1), st.integers(0, 5 * DAY)), max_size=30),
    st.lists(st.integers(0, 6 * DAY) | st.sampled_from([DAY, 2 * DAY]), min_size=1, max_size=4),
    st.sampled_from([0.5, 1, 2]),
)
def test_recent_popularity_orders_by_the_last_days_then_by_all_before(events, times, days):
    log = log_of(events)
    got = RecentPopularity(log, ITEMS, days).scores(queries_of([[]] * len(times), times))
    assert got.shape == (len(times), ITEMS)
    assert got.dtype == np.float32
    for row, time in enumerate(times):
        until = time // DAY * DAY
        recent = Counter(item for _, item, then in events if until - days * DAY <= then < until)
        ever = Counter(item for _, item, then in events if then < until)
        by = sorted(range(ITEMS), key=lambda item: (-recent[item], -ever[item], item))
        assert np.argsort(-got[row], kind="stable").tolist() == by


def test_recent_popularity_does_not_see_the_querys_own_day_or_later():
    past = [(1, 2, 10), (1, 3, DAY - 1), (2, 3, DAY - 5)]
    future = [(1, 0, DAY), (1, 0, DAY + 50), (2, 0, DAY + 101), (2, 0, 9 * DAY)]
    queries = queries_of([[], []], [DAY, DAY + 100])
    alone = RecentPopularity(log_of(past), ITEMS, 7).scores(queries)
    np.testing.assert_array_equal(RecentPopularity(log_of(past + future), ITEMS, 7).scores(queries), alone)
    assert alone.argmax(axis=1).tolist() == [3, 3]


def naive_knn(events, until, neighbours, histories):
    """[q, N] sums of similarity and [N] popularity, one pair at a time."""
    liked_by = [{user for user, item, time in events if item == i and time < until and user} for i in range(ITEMS)]
    similarity = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        row = {}
        for j in range(ITEMS):
            common = len(liked_by[i] & liked_by[j])
            if i != j and common:
                row[j] = common / (math.sqrt(len(liked_by[i]) * len(liked_by[j])) + 10.0)
        for j in sorted(row, key=lambda j: (-np.float32(row[j]), j))[:neighbours]:
            similarity[i, j] = row[j]
    popularity = np.array([sum(item == i and time < until for _, item, time in events) for i in range(ITEMS)])
    return np.array([sum((similarity[i] for i in history), np.zeros(ITEMS)) for history in histories]), popularity


@settings(deadline=None, max_examples=150)
@given(
    EVENTS,
    st.integers(0, 21),
    st.integers(1, ITEMS),
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=5), min_size=1, max_size=4),
    st.integers(1, ITEMS),
)
def test_item_knn_equals_a_dense_computation(events, until, neighbours, histories, rows_at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_knn, "ROWS_AT_ONCE", rows_at_once)
        knn = ItemKNN(log_of(events), USERS, ITEMS, until, neighbours)
    got = knn.scores(queries_of(histories))
    expected, popularity = naive_knn(events, until, neighbours, histories)
    assert got.shape == expected.shape
    prior = knn.scores(queries_of([[]]))[0]
    np.testing.assert_allclose(got - prior, expected, atol=1e-6)
    np.testing.assert_allclose(prior * max(popularity.max(), 1), popularity * prior.max(), atol=1e-6)
    if (expected > 0).any():
        assert prior.max() <= 1.001e-3 * expected[expected > 0].min()  # too small to count against what is known


def test_item_knn_prefers_what_the_history_speaks_for_to_what_is_popular():
    together = [(user, item, 0) for user in range(1, 4) for item in (0, 1)]
    popular = [(user, 2, 0) for user in range(4, 40)]
    knn = ItemKNN(log_of(together + popular), 40, ITEMS, 10)
    scores = knn.scores(queries_of([[0], []]))
    assert np.argsort(-scores[0], kind="stable")[:2].tolist() == [1, 2]
    assert scores[0, 1] == pytest.approx(3 / (3 + 10), rel=0.01)
    assert scores[1].argmax() == 2


def test_strangers_are_not_taken_for_one_user():
    """Position 0 stands for every unknown user: what two of them liked was not liked together."""
    knn = ItemKNN(log_of([(0, 1, 0), (0, 2, 0), (0, 2, 1)]), USERS, ITEMS, 10)
    np.testing.assert_array_equal(knn.scores(queries_of([[1]])), knn.scores(queries_of([[]])))
    assert knn.scores(queries_of([[]]))[0].argmax() == 2


def test_the_future_changes_nothing_and_baselines_fit_the_harness():
    rng = np.random.default_rng(0)
    past = np.stack([rng.integers(1, 30, 300), rng.integers(0, 50, 300), rng.integers(0, 5 * DAY, 300)], 1).tolist()
    future = np.stack(
        [rng.integers(1, 30, 300), rng.integers(0, 50, 300), rng.integers(5 * DAY, 9 * DAY, 300)], 1
    ).tolist()
    queries = queries_of([[1, 2], [], [3, 3, 4]], [5 * DAY] * 3)
    until = 5 * DAY

    def scorers(events):
        log = log_of(events)
        return [
            Popularity(log, 50, until),
            RecentPopularity(log, 50, 2),
            ItemKNN(log, 30, 50, until, 10),
            EASE(log, 30, 50, until),
            IALS(log, 30, 50, until, Factorisation(dim=8)),
        ]

    for before, after in zip(scorers(past), scorers(past + future), strict=True):
        np.testing.assert_array_equal(before.scores(queries), after.scores(queries))
    judged = evaluate(scorers(past), queries, EvaluationConfig(cutoffs=(5,), bootstrap_samples=100), Catalogue(50))
    assert list(judged.metrics) == ["popularity", "recent_popularity", "item_knn", "ease", "ials"]
    popular, _, *by_history = scorers(past)
    for scorer in by_history:
        for_nobody = top_lists(scorer, queries, 50, Catalogue(50))[1]
        np.testing.assert_array_equal(for_nobody, top_lists(popular, queries, 50, Catalogue(50))[1])


def test_baselines_of_an_empty_log_answer_all_the_same():
    log = log_of([])
    queries = queries_of([[1], []])
    for scorer in (
        Popularity(log, ITEMS, 10),
        RecentPopularity(log, ITEMS, 7),
        ItemKNN(log, USERS, ITEMS, 10),
        EASE(log, USERS, ITEMS, 10),
        IALS(log, USERS, ITEMS, 10),
    ):
        scores = scorer.scores(queries)
        assert scores.shape == (2, ITEMS)
        assert not scores.any()


@settings(deadline=None, max_examples=100)
@given(
    EVENTS,
    st.integers(0, 21),
    st.sampled_from([0.5, 10.0, 300.0]),
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=5), min_size=1, max_size=4),
)
def test_ease_equals_its_closed_form(events, until, regularisation, histories):
    ease = EASE(log_of(events), USERS, ITEMS, until, regularisation)
    liked = np.zeros((USERS, ITEMS))
    for user, item, time in events:
        if user and time < until:
            liked[user, item] = 1.0
    inverse = np.linalg.inv(liked.T @ liked + regularisation * np.eye(ITEMS))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    asked = np.array([[float(item in history) for item in range(ITEMS)] for history in histories])
    np.testing.assert_allclose(ease.scores(queries_of(histories)), asked @ weights, atol=1e-5)


def test_ease_minimises_what_it_is_defined_by():
    """No other weights without a diagonal reconstruct the log with a smaller regularised error."""
    rng = np.random.default_rng(1)
    liked = (rng.random((40, ITEMS)) < 0.3).astype(float)
    ease = EASE(log_of([(u + 1, i, 0) for u, i in np.argwhere(liked)]), 41, ITEMS, 1, 5.0)
    weights = ease.scores(queries_of([[item] for item in range(ITEMS)]))

    def error(weights):
        return np.square(liked - liked @ weights).sum() + 5.0 * np.square(weights).sum()

    best = error(weights)
    for _ in range(50):
        step = rng.normal(size=(ITEMS, ITEMS)) * 0.05
        np.fill_diagonal(step, 0.0)
        assert error(weights + step) > best


def naive_sweep(liked, others, f):
    """[rows, dim]: each row's normal equations, one row at a time."""
    solved = np.zeros((len(liked), f.dim))
    for row, likes in enumerate(liked):
        chosen = others[likes > 0]
        if len(chosen):
            penalty = f.regularisation * (len(chosen) + f.unobserved * liked.shape[1]) ** f.nu
            matrix = chosen.T @ chosen + f.unobserved * others.T @ others + penalty * np.eye(f.dim)
            solved[row] = np.linalg.solve(matrix, chosen.sum(axis=0))
    return solved


@pytest.mark.parametrize("cells", [1, 300, 1 << 22])
@pytest.mark.parametrize("nu", [0.0, 1.0])
def test_ials_equals_a_solver_of_one_row_at_a_time(nu, cells, monkeypatch):
    monkeypatch.setattr(ials, "_CELLS", cells)
    rng = np.random.default_rng(2)
    liked = (rng.random((30, 20)) < 0.25).astype(np.float64)
    liked[3], liked[:, 4] = 0, 0
    f = Factorisation(dim=4, unobserved=0.2, regularisation=0.05, nu=nu, deviation=1.0, sweeps=3)
    log = log_of([(u, i, 0) for u, i in np.argwhere(liked) if u])
    liked[0] = 0
    got = IALS(log, 30, 20, 1, f, seed=5)
    items = np.random.default_rng(5).standard_normal((20, 4)) * 0.5
    for _ in range(3):
        items = naive_sweep(liked.T, naive_sweep(liked, items, f), f)
    np.testing.assert_allclose(got.items, items, atol=1e-4)
    asked = np.zeros((2, 20))
    asked[0, [1, 5, 7]] = 1.0
    expected = naive_sweep(asked, items, f) @ items.T
    np.testing.assert_allclose(got.scores(queries_of([[5, 1, 7, 5], []])), expected, atol=1e-4)


def test_every_sweep_of_ials_lowers_the_objective():
    rng = np.random.default_rng(3)
    liked = csr_matrix((rng.random((60, 40)) < 0.2).astype(np.float32))
    losses = []
    for sweeps in range(1, 8):
        f = Factorisation(dim=8, unobserved=0.1, regularisation=0.01, nu=0.5, sweeps=sweeps)
        losses.append(f.loss(liked, *factorise(liked, f)))
    assert all(later < earlier for earlier, later in pairwise(losses))
    dense, (users, items) = liked.toarray(), factorise(liked, f)
    products = users @ items.T
    counts = (dense.sum(axis=1) + 0.1 * 40) ** 0.5, (dense.sum(axis=0) + 0.1 * 60) ** 0.5
    penalty = counts[0] @ np.square(users).sum(axis=1) + counts[1] @ np.square(items).sum(axis=1)
    direct = np.square(dense * (1 - products)).sum() + 0.1 * np.square(products).sum() + 0.01 * penalty
    assert losses[-1] == pytest.approx(direct, rel=1e-4)
