"""The index: exact where it says so, as good as it says where it does not, whole or refused."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from inputs.ragged import Ragged
from retrieval.config import IndexConfig
from retrieval.index import Index
from retrieval.index.recall import exact_search, recall_of

TREE = IndexConfig(brute_force_below=0, target_recall=0.9, reorder=200)


def clustered(size: int, dim: int = 16, clusters: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    return (centres[rng.integers(clusters, size=size)] + 0.4 * rng.normal(size=(size, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    return clustered(4_000)


@pytest.fixture(scope="module")
def queries():
    return clustered(200, seed=1)


@pytest.fixture(scope="module")
def tree(vectors, queries):
    return Index.build(vectors, TREE, seed=0, queries=queries)


@pytest.fixture(scope="module")
def exact(vectors):
    return Index.build(vectors, IndexConfig(), seed=0)


class TestExact:
    def test_small_catalogues_are_searched_whole(self, exact, vectors, queries):
        assert exact.facts.kind == "exact"
        assert exact.facts.recall == 1.0
        positions, scores = exact.search(queries, 30)
        wanted, best = exact_search(vectors, queries, 30)
        assert positions.dtype == np.int64
        assert scores.dtype == np.float32
        np.testing.assert_array_equal(positions, wanted)
        np.testing.assert_allclose(scores, best, rtol=1e-5)

    @pytest.mark.parametrize("size", [1, 2, 15])
    def test_a_catalogue_too_small_for_a_codebook_is_searched_whole(self, size):
        index = Index.build(clustered(size), TREE, seed=0)
        assert index.facts.kind == "exact"
        assert sorted(index.search(clustered(1), size)[0][0]) == list(range(size))

    def test_what_is_missing_is_minus_one_and_minus_infinity(self):
        positions, scores = Index.build(clustered(5), IndexConfig(), seed=0).search(clustered(3, seed=2), 8)
        assert positions.shape == scores.shape == (3, 8)
        assert (np.sort(positions[:, :5], axis=1) == np.arange(5)).all()
        assert np.isfinite(scores[:, :5]).all()
        assert (positions[:, 5:] == -1).all()
        assert (scores[:, 5:] == -np.inf).all()


class TestTree:
    def test_recall_reaches_the_target_and_is_what_the_facts_say(self, tree, vectors, queries):
        assert tree.facts.kind == "tree_ah"
        assert 1 <= tree.facts.leaves_to_search <= tree.facts.leaves
        wanted, _ = exact_search(vectors, queries, 100)
        measured = recall_of(tree.search(queries, 100)[0], wanted)
        assert measured >= TREE.target_recall
        assert measured == pytest.approx(tree.facts.recall)

    def test_scores_are_inner_products_best_first(self, tree, vectors, queries):
        positions, scores = tree.search(queries, 50)
        assert (np.diff(scores, axis=1) <= 0).all()
        products = np.einsum("qkd,qd->qk", vectors[positions], queries)
        np.testing.assert_allclose(scores, products, rtol=1e-4, atol=1e-4)

    def test_a_higher_target_searches_more(self, vectors, queries, tree):
        config = TREE.model_copy(update={"target_recall": 0.5})
        less = Index.build(vectors, config, seed=0, queries=queries)
        assert less.facts.leaves_to_search < tree.facts.leaves_to_search
        assert less.facts.recall >= 0.5

    def test_more_than_the_searched_leaves_hold_is_filled_up(self, tree, vectors, queries):
        positions, scores = tree.search(queries, len(vectors) + 5)
        for row, values in zip(positions, scores, strict=True):
            found = int((row >= 0).sum())
            assert 0 < found <= len(vectors)
            assert (row[found:] == -1).all()
            assert (values[found:] == -np.inf).all()
            assert len(set(row[:found].tolist())) == found
            assert np.isfinite(values[:found]).all()

    def test_an_answer_short_of_neighbours_does_not_count_as_finding_item_0(self):
        """Leaves of about 10 hold far fewer than the 100 asked for; recall must not profit from the filling."""
        vectors = clustered(600, clusters=60)
        vectors[0] = 50 * np.ones(16)  # the best answer to many a query, and the position ScaNN fills up with
        queries = np.abs(clustered(60, seed=3))
        config = IndexConfig(brute_force_below=0, leaves=60, target_recall=0.02, reorder=600)
        index = Index.build(vectors, config, seed=0, queries=queries)
        wanted, _ = exact_search(vectors, queries, 100)
        assert index.facts.recall == pytest.approx(recall_of(index.search(queries, 100)[0], wanted))


class TestExcluding:
    @settings(deadline=None, max_examples=30)
    @given(data=st.data(), seed=st.integers(0, 2**31))
    def test_equals_brute_force_over_what_is_left(self, data, seed):
        size, k = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
        vectors, queries = clustered(size, seed=seed), clustered(4, seed=seed + 1)
        excluded = data.draw(st.lists(st.lists(st.integers(0, size - 1), max_size=size), min_size=4, max_size=4))
        index = Index.build(vectors, IndexConfig(), seed=0)
        positions, scores = index.search_excluding(queries, k, Ragged.from_rows(excluded))
        for row, query in enumerate(queries):
            left = np.setdiff1d(np.arange(size), excluded[row])
            wanted = left[np.argsort(-(vectors[left] @ query), kind="stable")][:k]
            assert positions[row].tolist() == wanted.tolist() + [-1] * (k - len(wanted))
            np.testing.assert_allclose(scores[row, : len(wanted)], vectors[wanted] @ query, rtol=1e-4, atol=1e-5)
            assert (scores[row, len(wanted) :] == -np.inf).all()

    def test_a_tree_never_returns_what_is_excluded_and_loses_nothing_else(self, tree, queries):
        best, _ = tree.search(queries, 80)
        positions, scores = tree.search_excluding(queries, 40, Ragged.from_rows(best[:, ::2]))
        np.testing.assert_array_equal(positions, best[:, 1::2])
        assert (np.diff(scores, axis=1) <= 0).all()

    def test_each_query_has_its_own(self, exact, queries):
        first = exact.search(queries[:2], 1)[0]
        rows = [[], first[1].tolist()]
        positions, _ = exact.search_excluding(queries[:2], 1, Ragged.from_rows(rows))
        assert positions[0] == first[0]
        assert positions[1] != first[1]


class TestOnDisk:
    @pytest.fixture(params=["exact", "tree"])
    def index(self, request):
        return request.getfixturevalue(request.param)

    def test_a_loaded_index_answers_the_same_even_from_another_place(self, index, queries, tmp_path):
        index.save(tmp_path / "index")
        (tmp_path / "elsewhere").mkdir()
        shutil.move(tmp_path / "index", tmp_path / "elsewhere" / "moved")
        loaded = Index.load(tmp_path / "elsewhere" / "moved")
        assert loaded.facts == index.facts
        for first, second in zip(loaded.search(queries, 25), index.search(queries, 25), strict=True):
            np.testing.assert_array_equal(first, second)
        assert [entry.name for entry in tmp_path.iterdir()] == ["elsewhere"]

    def test_every_part_that_is_damaged_or_missing_is_named(self, index, tmp_path):
        index.save(tmp_path / "index")
        parts = [path for path in (tmp_path / "index" / "scann").iterdir() if path.is_file()]
        assert len(parts) >= 3
        for part in parts:
            content = part.read_bytes()
            flipped = bytes([content[0] ^ 1]) + content[1:] if content else b"x"
            for damaged in (content[: len(content) // 2] if content else b"xy", flipped, None):
                if damaged is None:
                    part.unlink()
                else:
                    part.write_bytes(damaged)
                with pytest.raises(UserError, match="missing or damaged") as caught:
                    Index.load(tmp_path / "index")
                assert str(part) in caught.value.message
                assert caught.value.remedy
                part.write_bytes(content)
        Index.load(tmp_path / "index")

    @pytest.mark.parametrize("content", [None, "{", "[1]", json.dumps({"format": 99})])
    def test_a_manifest_that_is_none_is_named(self, exact, tmp_path, content):
        exact.save(tmp_path / "index")
        manifest = tmp_path / "index" / "index.json"
        manifest.unlink()
        if content is not None:
            manifest.write_text(content)
        with pytest.raises(UserError) as caught:
            Index.load(tmp_path / "index")
        assert str(manifest) in caught.value.message


@pytest.mark.parametrize("config", [IndexConfig(), TREE])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_named(config, bad):
    vectors = clustered(50)
    vectors[[17, 30], 2] = bad
    with pytest.raises(UserError, match="item position 17 is not finite"):
        Index.build(vectors, config, seed=0)


def test_no_candidates_are_refused():
    with pytest.raises(UserError, match="no candidate"):
        Index.build(np.empty((0, 8), np.float32), IndexConfig(), seed=0)
