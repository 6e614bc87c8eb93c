"""The tuner: what it says was measured, its choice reaches the target, and the frontier is one."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import UserError
from retrieval.index import Effort, Searcher, TreeSetting
from retrieval.index.recall import TopK, exact_search, recall_of
from retrieval.index.sharded.effort import leaves_ladder
from retrieval.index.tuner.frontier import draw_frontier, read_chosen, write_tuned
from retrieval.index.tuner.measure import Point, efforts, pareto
from retrieval.index.tuner.tune import Choices, tune
from tests.retrieval.index.sources import clustered

FEW = Choices(
    leaves=(1.0,),
    anisotropic_thresholds=(0.2,),
    partitions=((None, None), (1.5, None)),
    dims_per_block=(2,),
    codes=(),
    reorder_precisions=("float32", "int8"),
)


@pytest.fixture(scope="module")
def vectors():
    return clustered(5_000)


@pytest.fixture(scope="module")
def tuned(vectors):
    return tune(vectors, clustered(200, seed=1), 0.9, k=20, choices=FEW)


class TestTune:
    def test_the_choice_reaches_the_target_on_both_halves_and_none_that_does_is_faster(self, tuned):
        assert min(tuned.chosen.recall, tuned.chosen.verified) >= 0.9
        assert (tuned.k, tuned.size, tuned.dim, tuned.queries) == (20, 5_000, 16, 200)
        assert tuned.chosen.rate >= tuned.exact.rate
        assert (tuned.exact.setting, tuned.exact.recall, tuned.exact.verified) == (None, 1.0, 1.0)

    def test_every_kind_of_tree_was_tried(self, tuned):
        kinds = {(p.setting.soar, p.setting.reorder_precision) for p in tuned.points if p.setting is not None}
        assert {(None, "float32"), (1.5, "float32")} <= kinds
        assert any(precision == "int8" for _, precision in kinds)

    def test_a_point_built_again_finds_about_as_much(self, tuned, vectors):
        best = max((p for p in tuned.points if p.setting is not None), key=lambda p: p.recall)
        queries = clustered(200, seed=1)
        wanted, _ = exact_search(vectors, queries, 20)
        found, _ = Searcher.build_tree(vectors, best.setting).search(queries, 20)
        same_queries = (best.recall + best.verified) / 2  # both halves, as here; that of one half chose the point
        assert recall_of(found, wanted) == pytest.approx(same_queries, abs=0.05)

    def test_what_queries_look_at_may_lay_out_the_codes(self, vectors):
        choices = Choices((1.0,), (), ((None, None),), (), (0.5,), ("float32",))
        tuned = tune(vectors, clustered(200, seed=1), 0.9, k=20, choices=choices)
        assert {p.setting.codes for p in tuned.points if p.setting is not None} == {8}

    def test_a_target_that_no_tree_reaches_is_exact_search(self, vectors):
        tuned = tune(vectors[:300], clustered(40, seed=1), 1.0, k=300, choices=FEW)
        assert min(tuned.chosen.recall, tuned.chosen.verified) == 1.0

    @pytest.mark.parametrize("size", [1, 15])
    def test_too_few_vectors_for_a_tree_are_searched_whole(self, vectors, size):
        assert tune(vectors[:size], clustered(4, seed=1), 0.9).chosen.setting is None

    def test_queries_that_do_not_fit_are_refused(self, vectors):
        with pytest.raises(UserError, match=r"shape \[5, 3\]; wanted are 2 or more of 16 numbers"):
            tune(vectors, np.ones((5, 3), np.float32), 0.9)


class TestFiles:
    def test_the_choice_is_read_back(self, tuned, tmp_path):
        write_tuned(tmp_path / "t.json", tuned)
        assert read_chosen(tmp_path / "t.json") == (tuned.chosen.setting, 5_000, 0.9)
        document = json.loads((tmp_path / "t.json").read_text())
        assert len(document["points"]) == len(tuned.points)
        recalls = [point["recall"] for point in document["frontier"]]
        rates = [point["queries_per_second"] for point in document["frontier"]]
        assert recalls == sorted(recalls)
        assert rates == sorted(rates, reverse=True)

    def test_the_picture_is_one(self, tuned, tmp_path):
        draw_frontier(tmp_path / "t.png", tuned)
        assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
        assert [entry.name for entry in tmp_path.iterdir()] == ["t.png"]

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 1}', '{"format": 1, "chosen": 3}'])
    def test_another_file_is_told(self, tmp_path, content):
        if content is not None:
            (tmp_path / "t.json").write_text(content)
        with pytest.raises(UserError) as caught:
            read_chosen(tmp_path / "t.json")
        assert str(tmp_path / "t.json") in caught.value.message


class TestParts:
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    def test_the_frontier_is_what_no_other_beats(self, pairs):
        points = [Point(None, recall / 10, 0.0, float(rate)) for recall, rate in pairs]
        kept = pareto(points)
        for point in points:
            assert any(k.recall >= point.recall and k.rate >= point.rate for k in kept)
        for one in kept:
            assert not any(p.recall >= one.recall and p.rate >= one.rate and p != one for p in points)

    @given(st.integers(1, 5_000))
    def test_a_ladder_begins_at_one_rises_and_ends_at_all(self, leaves):
        for ladder in (leaves_ladder(leaves), efforts(1, leaves, 1.5)):
            assert ladder[0] == 1
            assert ladder[-1] == leaves
            assert all(low < high for low, high in itertools.pairwise(ladder))

    @given(st.data())
    def test_top_k_of_blocks_is_top_k_of_all(self, data):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        size, k = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 12))
        scores, ids = rng.integers(-3, 4, (3, size)).astype(np.float32), rng.permutation(200)[:size]
        best = TopK(3, k)
        cuts = [0, *sorted(data.draw(st.lists(st.integers(0, size), max_size=4))), size]
        for start, stop in itertools.pairwise(cuts):
            best.see(scores[:, start:stop], ids[start:stop])
        for row in range(3):
            order = np.lexsort((ids, -scores[row]))[:k]
            assert best.ids[row].tolist() == ids[order].tolist()

    def test_an_effort_of_its_own_changes_one_search(self, vectors):
        searcher = Searcher.build_tree(vectors, TreeSetting(70, 1, 20))
        queries = clustered(50, seed=2)
        wanted, _ = exact_search(vectors, queries, 20)
        little, much = searcher.search(queries, 20)[0], searcher.search(queries, 20, Effort(70, 500))[0]
        assert recall_of(little, wanted) < recall_of(much, wanted) == pytest.approx(1, abs=0.01)
        np.testing.assert_array_equal(searcher.search(queries, 20)[0], little)
