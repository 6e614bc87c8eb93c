"""The index that lives: what was deleted is gone, what was upserted is found, and no answer is half an update."""

import shutil
import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from retrieval.index.exact import exact_top
from retrieval.index.filters.filter import Filter
from retrieval.index.live import shadow
from retrieval.index.live.config import LiveConfig
from retrieval.index.live.index import LiveIndex
from tests.retrieval.index.live.models import brute_force, exact_builder, recall, tree_builder
from tests.retrieval.index.sources import clustered

QUIET = LiveConfig(shadow_rate=0)
EAGER = LiveConfig(shadow_rate=0, fold_at=1)
DIM = 4


def out_of_memory(*given):
    raise MemoryError


def vectors_of(ids, seed):
    """Small whole numbers: sums are exact, so equality is, and ties are many."""
    return np.random.default_rng(seed).integers(-3, 4, (len(ids), DIM)).astype(np.float32)


ids_of_a_call = st.lists(st.integers(0, 30), max_size=12, unique=True)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), ids_of_a_call),
        st.tuples(st.just("delete"), ids_of_a_call),
        st.tuples(st.sampled_from(["maintain", "rebuild", "save"]), st.just([])),
    ),
    min_size=1,
    max_size=25,
)


class TestAnswers:
    @settings(deadline=None, max_examples=60)
    @given(steps=steps, k=st.integers(1, 40), seed=st.integers(0, 1000))
    def test_after_any_updates_an_exact_one_answers_as_looking_at_all(self, steps, k, seed, tmp_path_factory):
        index = LiveIndex(DIM, EAGER, builder=exact_builder, background=False)
        items: dict[int, np.ndarray] = {}
        queries = vectors_of(range(3), seed)
        for number, (step, ids) in enumerate(steps):
            if step == "upsert":
                vectors = vectors_of(ids, seed + number)
                assert index.upsert(np.array(ids, np.int64), vectors).replaced == len(items.keys() & set(ids))
                items.update(zip(ids, vectors, strict=True))
            elif step == "delete":
                assert index.delete(np.array(ids, np.int64)).unknown == len(set(ids) - items.keys())
                for i in ids:
                    items.pop(i, None)
            elif step == "maintain":
                index.maintain()
            elif step == "save":
                folder = tmp_path_factory.mktemp("index") / "saved"
                index.save(folder)
                index = LiveIndex.load(folder, EAGER, exact_builder, background=False)
            elif items:
                index.rebuild()
            assert index.size == len(items)
            found, scores = index.search(queries, k)
            wanted, best = brute_force(items, queries, k)
            np.testing.assert_array_equal(scores, best)
            if index.state.tree is None:  # whose ties at the edge are ScaNN's
                np.testing.assert_array_equal(np.sort(scores), np.sort(best))
            for q in range(3):
                have = found[q][found[q] >= 0].tolist()
                assert len(set(have)) == len(have) == min(k, len(items))
                assert all(items[i] @ queries[q] == score for i, score in zip(have, scores[q], strict=False))
                sure = wanted[q][best[q] > best[q].min()]
                assert set(sure.tolist()) <= {*have, -1}

    @pytest.mark.parametrize(
        "builder",
        [tree_builder(), tree_builder(reorder_precision="int8"), tree_builder(soar=1.5)],
        ids=["plain", "int8", "soar"],
    )
    def test_a_tree_in_which_most_was_replaced(self, builder):
        """In place, or (SOAR) beside it: what is there alone is returned, scored as it is now, and most of it found."""
        ids, vectors = np.arange(3_000), clustered(3_000)
        index = LiveIndex.build(ids, vectors, EAGER, builder=builder, background=False)
        index.rebuild()
        items = dict(zip(ids.tolist(), vectors, strict=True))
        queries, rng = clustered(50, seed=1), np.random.default_rng(2)
        for number in range(12):
            gone = rng.choice(list(items), 150, replace=False)
            index.delete(gone)
            for i in gone.tolist():
                del items[i]
            new = np.concatenate([rng.choice(list(items), 100, replace=False), 3_000 + 100 * number + np.arange(100)])
            vectors = clustered(200, seed=10 + number)
            index.upsert(new, vectors)
            items.update(zip(new.tolist(), vectors, strict=True))
            if number % 3 == 0:
                index.maintain()
            found, scores = index.search(queries, 20)
            wanted, _ = brute_force(items, queries, 20)
            assert (found >= 0).all()
            for row, query, values in zip(found, queries, scores, strict=True):
                np.testing.assert_allclose(values, [items[i] @ query for i in row.tolist()], rtol=1e-4, atol=1e-4)
            assert (np.diff(scores, axis=1) <= 0).all()
            assert recall(found, wanted) > 0.9

    def test_what_is_upserted_is_the_answer_of_the_next_search_and_what_is_deleted_of_none(self):
        ids = np.arange(2_000)
        index = LiveIndex.build(ids, clustered(2_000), QUIET, builder=tree_builder(), background=False)
        index.rebuild()
        query = 3 * clustered(1, seed=4)
        best = index.search(query, 5)[0][0]
        index.upsert(np.array([77_000, best[1]]), np.concatenate([10 * query, -10 * query]))
        answer = index.search(query, 5)[0][0]
        assert answer.tolist()[:3] == [77_000, best[0], best[2]]
        index.delete(np.array([77_000, best[0]]))
        answer = index.search(query, 2_000)[0][0]
        assert answer[0] == best[2]
        assert sorted(answer[answer >= 0].tolist()) == sorted(set(ids.tolist()) - {best[0]})  # all, though deep in it

    def test_empty_and_emptied(self):
        index = LiveIndex(DIM, EAGER, builder=exact_builder, background=False)
        assert (index.search(np.ones((2, DIM)), 3)[0] == -1).all()
        index.upsert(np.arange(50), vectors_of(range(50), 0))
        index.rebuild()
        index.delete(np.arange(50))
        index.flush()
        found, scores = index.search(np.ones((2, DIM)), 3)
        assert (found == -1).all()
        assert (scores == -np.inf).all()
        index.upsert(np.array([5]), np.ones((1, DIM)))
        assert index.search(np.ones((1, DIM)), 3)[0].tolist() == [[5, -1, -1]]

    def test_ids_may_be_any_int64(self):
        least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
        index = LiveIndex(DIM, QUIET, background=False)
        index.upsert(np.array([least, -1, most]), np.eye(DIM)[:3])
        found, scores = index.search(np.eye(DIM)[:3] + 0.1, 3)
        assert found[:, 0].tolist() == [least, -1, most]
        assert np.isfinite(scores).all()

    def test_a_tree_of_nothing_is_refused_and_so_are_queries_that_do_not_fit(self):
        index = LiveIndex(DIM, QUIET, background=False)
        with pytest.raises(UserError, match="no item to build a tree of"):
            index.rebuild()
        index.upsert(np.arange(40), clustered(40, dim=DIM))
        for queries, words in ((np.ones((3, 9)), r"\[any, 4\] are wanted"), (np.full((3, DIM), np.nan), "not finite")):
            with pytest.raises(UserError, match=words):
                index.rebuild(queries)


class TestUpkeep:
    def test_it_rests_though_a_tree_keeps_the_last_of_its_dead(self):
        index = LiveIndex.build(np.arange(50), vectors_of(range(50), 0), EAGER, None, exact_builder, background=False)
        index.rebuild()
        index.delete(np.arange(50))
        assert index.maintain()
        assert index.stats().tombstones
        assert not index.maintain()

    def test_a_judgement_that_fails_keeps_no_slot_for_ever(self, monkeypatch):
        config = LiveConfig(shadow_rate=1, fold_at=1)
        index = LiveIndex.build(np.arange(300), clustered(300), config, builder=exact_builder, background=False)
        index.rebuild()
        index.search(clustered(5, seed=1), 20)
        with monkeypatch.context() as patched:
            patched.setattr(shadow, "exact_top", out_of_memory)
            with pytest.raises(MemoryError):
                index.maintain()
        for number in range(12):
            index.upsert(np.arange(300), clustered(300, seed=number))
            index.flush()
        assert index.state.view.used < 1_000  # of 3,900 vectors that came

    def test_a_tree_that_could_not_be_built_because_recall_fell_is_tried_again(self):
        config = LiveConfig(shadow_rate=1, recall_floor=1, recall_least=10, tree_from=100_000)
        builders = iter([tree_builder(1), out_of_memory, tree_builder(1)])

        def builder(vectors, asked):
            return next(builders)(vectors, asked)

        index = LiveIndex.build(np.arange(2_000), clustered(2_000), config, None, builder, background=False)
        index.rebuild()
        index.search(clustered(20, seed=1), 50)
        with pytest.raises(MemoryError):
            index.maintain()
        index.maintain()
        assert index.stats().rebalances == 1


class TestBesideSearches:
    def test_no_answer_is_half_an_update(self):
        """Each update moves all items at once, to vectors that say which update they are of."""
        ids = np.arange(600)
        index = LiveIndex.build(ids, np.ones((600, DIM)), EAGER, builder=exact_builder, background=False)
        index.rebuild()
        index.begin_upkeep()
        wrong, ended = [], threading.Event()

        def search():
            last = 0.0
            while not ended.is_set():
                found, scores = index.search(np.ones((1, DIM), np.float32), 700)
                seen = set(scores[0][found[0] >= 0].tolist())
                if len(seen) != 1 or (found[0] >= 0).sum() != 600 or seen.pop() < last:
                    wrong.append((found, scores))
                last = float(scores[0, 0])

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for update in range(2, 60):
            index.upsert(ids, np.full((600, DIM), update))
        ended.set()
        for thread in threads:
            thread.join()
        index.close()
        assert not wrong
        assert index.stats().failure is None

    def test_the_thread_in_the_background_folds_builds_and_ends(self):
        config = LiveConfig(tree_from=1_000, fold_at=64, shadow_rate=0.5)
        with LiveIndex(16, config, builder=tree_builder()) as index:
            index.upsert(np.arange(1_500), clustered(1_500))
            waited = threading.Event()
            for _ in range(300):
                index.search(clustered(4, seed=3), 10)
                stats = index.stats()
                if stats.trees_built and not stats.fresh and stats.recall is not None:
                    break
                waited.wait(0.05)
            assert stats.trees_built == 1
            assert stats.tree_size == 1_500
            assert stats.fresh == stats.tombstones == 0
            assert stats.failure is None
        assert not index._upkeep._thread.is_alive()


class TestRecall:
    def test_recall_that_fell_is_noticed_and_the_tree_built_anew(self):
        ids, vectors, queries = np.arange(4_000), clustered(4_000), clustered(60, seed=1)
        builders = iter([tree_builder(1, reorder=60), tree_builder(40)])
        config = LiveConfig(shadow_rate=1, recall_floor=0.95, recall_least=50, tree_from=100_000)

        def builder(vectors, asked):
            return next(builders)(vectors, asked)

        index = LiveIndex.build(ids, vectors, config, builder=builder, background=False)
        index.rebuild()
        found = index.search(queries, 50)[0]
        exact, _ = exact_top(vectors, None, ids, queries, 50, None)
        assert index.stats().recall is None
        index.maintain()
        stats = index.stats()
        assert stats.rebalances == 1
        assert stats.trees_built == 2
        assert stats.recall is None  # a new window
        assert recall(found, exact) < 0.95
        found = index.search(queries, 50)[0]
        index.maintain()
        assert index.stats().recall == pytest.approx(recall(found, exact))
        assert index.stats().recall_of == 60
        assert index.stats().recall > 0.95

    def test_a_floor_out_of_reach_does_not_build_for_ever(self):
        config = LiveConfig(shadow_rate=1, recall_floor=1, recall_least=10, tree_from=100_000)
        index = LiveIndex.build(np.arange(2_000), clustered(2_000), config, builder=tree_builder(1), background=False)
        index.rebuild()
        for _ in range(4):
            index.search(clustered(20, seed=1), 50)
            index.maintain()
        assert index.stats().rebalances == 1
        index.upsert(np.arange(200), clustered(200, seed=3))  # a tenth
        index.search(clustered(20, seed=1), 50)
        index.maintain()
        assert index.stats().rebalances == 2

    def test_the_share_asked_for_is_judged_and_what_waits_too_long_is_counted(self):
        config = LiveConfig(shadow_rate=0.1)
        index = LiveIndex.build(np.arange(500), clustered(500), config, background=False)
        for _ in range(100):
            index.search(clustered(1), 5)
        for _ in range(50):
            index.maintain()
        assert index.stats().recall_of == 10
        assert index.stats().recall == 1.0
        for _ in range(50):
            index.search(clustered(20), 5)
        assert index.stats().unjudged == 36

    def test_a_judged_view_is_what_it_was_though_items_change_before_it_is_judged(self):
        config = LiveConfig(shadow_rate=1, fold_at=1)
        index = LiveIndex.build(np.arange(300), clustered(300), config, builder=exact_builder, background=False)
        index.rebuild()
        index.search(clustered(5, seed=1), 20)
        for number in range(5):
            index.upsert(np.arange(300), clustered(300, seed=5 + number))
            index.flush()
        index.maintain()
        assert index.stats().recall == 1.0


class TestBadInput:
    @pytest.fixture
    def index(self):
        return LiveIndex.build(np.arange(10), np.eye(10), QUIET, background=False)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_vector_that_is_not_finite(self, index, bad):
        vectors = np.ones((3, 10))
        vectors[1, 2] = bad
        with pytest.raises(UserError, match="the vector of id 21 is not finite"):
            index.upsert(np.array([20, 21, 22]), vectors)
        assert index.size == 10

    @pytest.mark.parametrize("shape", [(2, 9), (2,), (2, 10, 1)])
    def test_another_dimension(self, index, shape):
        with pytest.raises(UserError, match=r"\[n, 10\] are wanted"):
            index.upsert(np.arange(2), np.ones(shape))

    def test_an_id_twice(self, index):
        with pytest.raises(UserError, match=r"id 4 is given 2 times \(1 ids more than once\)"):
            index.upsert(np.array([3, 4, 4]), np.ones((3, 10)))
        with pytest.raises(UserError, match="id 4 is given 2 times"):
            index.delete(np.array([3, 4, 4]))
        assert index.size == 10

    @pytest.mark.parametrize("ids", [np.array([1.5, 2]), np.array(["a", "b"]), np.array([[1, 2]])])
    def test_ids_that_are_none(self, index, ids):
        with pytest.raises(UserError, match="of integers are wanted"):
            index.upsert(ids, np.ones((2, 10)))

    def test_more_ids_than_vectors(self, index):
        with pytest.raises(UserError, match="2 vectors for 3 ids"):
            index.upsert(np.arange(3), np.ones((2, 10)))

    def test_unknown_ids_deleted_are_counted(self, index):
        done = index.delete(np.array([3, 99, 100]))
        assert (done.items, done.unknown) == (3, 2)
        stats = index.stats()
        assert (stats.size, stats.deletes, stats.unknown_deletes) == (9, 1, 2)

    @pytest.mark.parametrize(
        ("queries", "k", "words"),
        [
            (np.ones((1, 9)), 1, r"\[any, 10\] are wanted"),
            (np.ones(10), 1, r"\[any, 10\] are wanted"),
            (np.full((2, 10), np.nan), 1, "query 0 is not finite"),
            (np.ones((1, 10)), 0, "0 neighbours"),
        ],
    )
    def test_queries(self, index, queries, k, words):
        with pytest.raises(UserError, match=words):
            index.search(queries, k)

    def test_nothing_is_fine(self, index):
        assert index.upsert(np.array([], np.int64), np.empty((0, 10))).items == 0
        assert index.delete([]).items == 0
        assert index.search(np.empty((0, 10)), 3)[0].shape == (0, 3)


class TestOnDisk:
    @pytest.fixture(scope="class")
    def index(self):
        """With tombstones in the tree and vectors beside it."""
        attributes = {"n": np.arange(1_500), "word": [None, *["odd", "even"] * 749, "last"]}
        index = LiveIndex.build(
            np.arange(1_500), clustered(1_500), QUIET, attributes, builder=tree_builder(), background=False
        )
        index.rebuild()
        index.delete(np.arange(100))
        index.upsert(np.arange(1_450, 1_550), clustered(100, seed=9), {"n": [None] * 100, "word": ["new"] * 100})
        return index

    def test_a_loaded_one_answers_the_same(self, index, tmp_path):
        index.save(tmp_path / "index")
        queries = clustered(30, seed=2)
        loaded = LiveIndex.load(tmp_path / "index", QUIET, background=False)
        assert [p.name for p in tmp_path.iterdir()] == ["index"]
        for condition in (None, pc.field("word") == "new", pc.field("n") < 700):
            asked = None if condition is None else Filter(where=condition)
            for first, second in zip(loaded.search(queries, 20, asked), index.search(queries, 20, asked), strict=True):
                np.testing.assert_array_equal(first, second)
        before, after = index.stats(), loaded.stats()
        assert (after.size, after.tombstones, after.tree_size) == (before.size, before.tombstones, before.tree_size)
        loaded.flush()
        assert loaded.stats().tombstones == loaded.stats().fresh == 0
        assert recall(loaded.search(queries, 20)[0], index.search(queries, 20)[0]) > 0.95

    def test_every_part_that_is_damaged_or_missing_is_named(self, index, tmp_path):
        index.save(tmp_path / "whole")
        parts = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
        assert len(parts) >= 10
        for part in parts:
            shutil.rmtree(tmp_path / "index", ignore_errors=True)
            shutil.copytree(tmp_path / "whole", tmp_path / "index")
            for how in ("flipped", "missing"):
                content = (tmp_path / "index" / part).read_bytes()
                if how == "missing":
                    (tmp_path / "index" / part).unlink()
                else:
                    (tmp_path / "index" / part).write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else b"x")
                with pytest.raises(UserError) as caught:
                    LiveIndex.load(tmp_path / "index", background=False)
                assert str(tmp_path / "index" / part) in caught.value.message

    def test_what_is_saved_while_it_changes_is_one_moment(self, tmp_path):
        ids = np.arange(400)
        index = LiveIndex.build(ids, np.ones((400, DIM)), EAGER, builder=exact_builder, background=False)
        index.rebuild()
        index.begin_upkeep()
        ended = threading.Event()

        def update():
            number = 2
            while not ended.is_set():
                index.upsert(ids, np.full((400, DIM), number % 1_000))
                number += 1

        thread = threading.Thread(target=update)
        thread.start()
        for number in range(3):
            index.save(tmp_path / str(number))
        ended.set()
        thread.join()
        index.close()
        for number in range(3):
            loaded = LiveIndex.load(tmp_path / str(number), QUIET, background=False)
            found, scores = loaded.search(np.ones((1, DIM)), 500)
            assert (found >= 0).sum() == 400
            assert len(set(scores[0, :400].tolist())) == 1


def test_attributes_that_do_not_fit_are_named():
    index = LiveIndex(2, QUIET, schema=pa.schema({"n": pa.int64(), "word": pa.string()}), background=False)
    one = np.ones((1, 2))
    for given_, words in (
        (None, "items without attributes"),
        ({"n": [1]}, "attribute 'word' is missing"),
        ({"n": [1], "word": ["a"], "wrod": ["b"]}, "unknown attribute 'wrod'; did you mean 'word'"),
        ({"n": ["x"], "word": ["a"]}, "attribute 'n' is not int64"),
        ({"n": [1, 2], "word": ["a", "b"]}, "2 rows of attributes for 1 items"),
    ):
        with pytest.raises(UserError, match=words):
            index.upsert([1], one, given_)
    assert index.size == 0
    index.upsert([1], one, {"n": [None], "word": [None]})
    with pytest.raises(UserError, match="attribute 'when' is of type timestamp"):
        LiveIndex(2, QUIET, schema=pa.schema({"when": pa.timestamp("s")}), background=False)
    with pytest.raises(UserError, match="has none"):
        LiveIndex(2, QUIET, background=False).upsert([1], one, {"n": [1]})
