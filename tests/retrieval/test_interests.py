"""Queries of several vectors: an item's score is the largest of its products, however they are searched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.tf import tf
from inputs.ragged import Ragged
from retrieval.config import IndexConfig
from retrieval.index import Index
from retrieval.interests import nearest_interest, scores_of, search_interests, single


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class TestNearest:
    def test_is_the_one_with_the_largest_product_with_the_rows_own_candidate(self):
        queries, candidates = drawn(6, 3, 4), drawn(6, 4, seed=1)
        wanted = np.argmax(np.einsum("bmd,bd->bm", queries, candidates), axis=1)
        assert len(set(wanted)) > 1
        chosen = nearest_interest(tf.constant(queries), tf.constant(candidates))
        np.testing.assert_array_equal(chosen, queries[np.arange(6), wanted])

    def test_the_others_get_no_gradient_and_the_candidate_none_of_the_choice(self):
        queries, candidates = tf.constant(drawn(5, 3, 4)), tf.constant(drawn(5, 4, seed=1))
        with tf.GradientTape() as tape:
            tape.watch([queries, candidates])
            loss = tf.reduce_sum(nearest_interest(queries, candidates))
        of_queries, of_candidates = tape.gradient(loss, [queries, candidates])
        assert (np.abs(tf.convert_to_tensor(of_queries)).sum(2) > 0).sum(1).tolist() == [1] * 5
        assert of_candidates is None


class TestScores:
    def test_of_one_vector_are_products_and_of_several_their_maximum(self):
        queries, candidates = drawn(5, 3, 4), drawn(7, 4, seed=1)
        np.testing.assert_array_equal(scores_of(queries[:, 0], candidates), queries[:, 0] @ candidates.T)
        wanted = np.einsum("qmd,nd->qmn", queries, candidates).max(1)
        np.testing.assert_allclose(scores_of(queries, candidates), wanted, rtol=1e-5, atol=1e-6)

    def test_an_index_is_asked_for_every_vector(self):
        queries = drawn(5, 3, 4)
        np.testing.assert_array_equal(single(queries), queries.reshape(15, 4))
        np.testing.assert_array_equal(single(queries[:, 0]), queries[:, 0])


class TestSearch:
    @settings(deadline=None, max_examples=30)
    @given(data=st.data(), seed=st.integers(0, 2**31))
    def test_equals_brute_force_over_what_is_left(self, data, seed):
        size, k, interests = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
        candidates, queries = drawn(size, 5, seed=seed), drawn(3, interests, 5, seed=seed + 1)
        excluded = data.draw(st.lists(st.lists(st.integers(0, size - 1), max_size=size), min_size=3, max_size=3))
        index = Index.build(candidates, IndexConfig(), seed=0)
        positions, scores = search_interests(index, queries, k, Ragged.from_rows(excluded))
        assert positions.shape == scores.shape == (3, k)
        best = scores_of(queries, candidates)
        for row in range(3):
            left = np.setdiff1d(np.arange(size), excluded[row])
            wanted = left[np.argsort(-best[row, left], kind="stable")][:k]
            assert positions[row].tolist() == wanted.tolist() + [-1] * (k - len(wanted))
            np.testing.assert_allclose(scores[row, : len(wanted)], best[row, wanted], rtol=1e-4, atol=1e-5)
            assert (scores[row, len(wanted) :] == -np.inf).all()

    @pytest.mark.parametrize("k", [3, 50])
    def test_of_one_vector_is_the_indexs_own(self, k):
        index = Index.build(drawn(40, 5), IndexConfig(), seed=0)
        queries, excluded = drawn(4, 5, seed=2), Ragged.from_rows([[], [1], [2, 3], []])
        for ours, theirs in zip(
            search_interests(index, queries, k, excluded), index.search_excluding(queries, k, excluded), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
