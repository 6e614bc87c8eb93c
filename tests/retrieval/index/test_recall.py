"""Exact search, recall and the tuning of an index, against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.recall import exact_search, recall_of, shares_found, tune_leaves_to_search


@settings(deadline=None, max_examples=50)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_exact_search_is_a_sort_of_everything(data, seed):
    rng = np.random.default_rng(seed)
    size = data.draw(st.integers(1, 40))
    k = data.draw(st.integers(1, size))
    vectors = rng.integers(-2, 3, (size, 2)).astype(np.float32)  # whole numbers: ties are exact
    queries = rng.integers(-2, 3, (3, 2)).astype(np.float32)
    block = data.draw(st.sampled_from([1, 3, 7, 100]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.index.recall._ROWS", block)
        positions, scores = exact_search(vectors, queries, k)
    for row, query in enumerate(queries):
        ranked = sorted((-float(query @ vector), position) for position, vector in enumerate(vectors))[:k]
        assert positions[row].tolist() == [position for _, position in ranked]
        assert scores[row].tolist() == [-score for score, _ in ranked]


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 5), k=st.integers(1, 6), width=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_recall_is_the_mean_share_found(rows, k, width, seed):
    rng = np.random.default_rng(seed)
    wanted = np.stack([rng.permutation(10)[:k] for _ in range(rows)])
    found = rng.integers(-1, 10, (rows, width))
    share = [len(set(w) & set(f)) / k for w, f in zip(wanted.tolist(), found.tolist(), strict=True)]
    assert recall_of(found, wanted) == pytest.approx(np.mean(share))


@settings(deadline=None, max_examples=100)
@given(leaves=st.integers(1, 3_000), needed=st.integers(1, 4_000))
def test_tuning_finds_about_the_fewest_leaves_that_reach_the_target(leaves, needed):
    asked = []

    def recall(searched: int) -> float:
        asked.append(searched)
        return min(searched / needed, 1.0)

    chosen, measured = tune_leaves_to_search(recall, leaves, 1.0)
    assert measured == recall(chosen)
    assert max(asked) <= leaves
    if needed > leaves:
        assert chosen == leaves
    else:
        assert needed <= chosen <= needed + max(1, needed // 16)


def test_a_share_counts_any_of_those_that_tie_with_the_last():
    wanted = np.array([[3, 2, 2], [5, 4, 1], [-1, -2, -2]], np.float32)
    found = np.array([[2, 2, 3], [5, 1, -np.inf], [-1, -3, -2.000001]], np.float32)
    np.testing.assert_allclose(shares_found(found, wanted), [1, 2 / 3, 2 / 3])
