"""Filters: nothing forbidden is returned, and as many as there are allowed are."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from inputs.ragged import Ragged
from retrieval.index.filters import restricted
from retrieval.index.filters.filter import Filter
from retrieval.index.items.attributes import Attributes
from retrieval.index.live.config import LiveConfig
from retrieval.index.live.index import LiveIndex
from tests.retrieval.index.live.models import brute_force, exact_builder, recall, tree_builder
from tests.retrieval.index.sources import clustered

QUIET = LiveConfig(shadow_rate=0)
LANGUAGES = ["en", "fr", "de", None]


@pytest.fixture
def through_the_tree(monkeypatch):
    """Small indexes take the way of large ones: the tree is asked, however few are allowed."""
    monkeypatch.setattr(restricted, "FEW", 0)
    monkeypatch.setattr(restricted, "FEW_SHARE", 0.0)


def words(numbers):
    return pa.array([LANGUAGES[i] for i in numbers], pa.string())


def rows(size):
    return st.one_of(
        st.none(),
        st.lists(st.lists(st.integers(0, size + 5), max_size=size), min_size=3, max_size=3).map(Ragged.from_rows),
    )


@pytest.mark.usefixtures("through_the_tree")
class TestEqualsBruteForce:
    @settings(deadline=None, max_examples=80)
    @given(data=st.data(), seed=st.integers(0, 2**31), tree=st.booleans())
    def test_whatever_is_allowed(self, data, seed, tree):
        size, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 50))
        rng = np.random.default_rng(seed)
        language, age = rng.integers(0, 4, size), rng.integers(0, 10, size)
        vectors, queries = clustered(size, seed=seed), clustered(3, seed=seed + 1)
        index = LiveIndex.build(
            np.arange(size),
            vectors,
            QUIET,
            {"language": words(language), "age": age},
            builder=exact_builder,
            background=False,
        )
        if tree:
            index.rebuild()
            gone = rng.choice(size, size // 4, replace=False)  # tombstones, and fresh ones
            index.delete(gone)
            index.upsert(gone, vectors[gone], {"language": words(language[gone]), "age": age[gone]})
        allow, deny = data.draw(rows(size)), data.draw(rows(size))
        condition, holds = data.draw(
            st.sampled_from(
                [
                    (None, lambda i: True),
                    (pc.field("language") == "en", lambda i: language[i] == 0),
                    (pc.field("language") != "en", lambda i: language[i] in (1, 2)),
                    (
                        ~(pc.field("language") == "fr") & (pc.field("age") < 3),
                        lambda i: language[i] in (0, 2) and age[i] < 3,
                    ),
                    (pc.field("age").isin([2, 5]) | (pc.field("age") > 8), lambda i: age[i] in (2, 5, 9)),
                    (pc.field("language").is_null(), lambda i: language[i] == 3),
                    (pc.field("age") > 100, lambda i: False),
                ]
            )
        )

        def allowed(q, i):
            return (
                holds(i)
                and (allow is None or i in allow.row(q).tolist())
                and (deny is None or i not in deny.row(q).tolist())
            )

        found, scores = index.search(queries, k, Filter(allow, deny, condition))
        wanted, best = brute_force(dict(enumerate(vectors)), queries, k, allowed)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("through_the_tree")
class TestTree:
    @pytest.fixture(scope="class")
    def index(self):
        size = 4_000
        attributes = {"part": np.arange(size) % 100, "half": np.arange(size) < size // 2}
        index = LiveIndex.build(
            np.arange(size), clustered(size), QUIET, attributes, builder=tree_builder(4), background=False
        )
        index.rebuild()
        return index

    @settings(deadline=None, max_examples=25)
    @given(parts=st.integers(0, 100), k=st.integers(1, 120), seed=st.integers(0, 1000), denied=st.integers(0, 4000))
    def test_nothing_forbidden_and_as_many_as_there_are(self, index, parts, k, seed, denied):
        rng = np.random.default_rng(seed)
        queries = clustered(8, seed=seed)
        best, _ = index.search(queries, 60)
        deny = [[*best[q].tolist(), *rng.choice(4_000, denied, replace=False)] if q % 2 else [] for q in range(8)]
        found, scores = index.search(queries, k, Filter(deny=Ragged.from_rows(deny), where=pc.field("part") < parts))
        allowed = np.flatnonzero(np.arange(4_000) % 100 < parts)
        for q in range(8):
            have = found[q][found[q] >= 0]
            mine = np.setdiff1d(allowed, deny[q])
            assert np.isin(have, mine).all()
            assert len(np.unique(have)) == len(have) == min(k, len(mine))
            assert (np.diff(scores[q][: len(have)]) <= 0).all()
            assert (scores[q][len(have) :] == -np.inf).all()

    @pytest.mark.parametrize("parts", [50, 10, 2])
    def test_a_restriction_costs_no_recall(self, index, parts):
        queries = clustered(60, seed=3)
        items = dict(enumerate(clustered(4_000)))
        plain = recall(index.search(queries, 20)[0], brute_force(items, queries, 20)[0])
        wanted, _ = brute_force(items, queries, 20, lambda _, i: i % 100 < parts)
        found, _ = index.search(queries, 20, Filter(where=pc.field("part") < parts))
        assert recall(found, wanted) >= plain - 0.03

    def test_what_is_allowed_may_be_where_the_query_does_not_look(self, index):
        """The farthest items alone: they lie in none of the leaves that are searched first."""
        queries = clustered(5, seed=4)
        vectors = clustered(4_000)
        farthest = [np.argsort(vectors @ query)[:30] for query in queries]
        others = [np.setdiff1d(np.arange(4_000), far) for far in farthest]
        found, _ = index.search(queries, 40, Filter(deny=Ragged.from_rows([o.tolist() for o in others])))
        for q in range(5):
            assert sorted(found[q][:30].tolist()) == sorted(farthest[q].tolist())
            assert (found[q][30:] == -1).all()


class TestFew:
    def test_the_few_that_are_allowed_are_looked_at_one_by_one(self):
        index = LiveIndex.build(
            np.arange(3_000),
            clustered(3_000),
            QUIET,
            {"n": np.arange(3_000)},
            builder=tree_builder(1),
            background=False,
        )
        index.rebuild()
        queries, items = clustered(20, seed=2), dict(enumerate(clustered(3_000)))
        found, _ = index.search(queries, 30, Filter(where=pc.field("n") < 700))
        np.testing.assert_array_equal(found, brute_force(items, queries, 30, lambda _, i: i < 700)[0])
        one_list = Filter.of(20, allow=[5, 9, 2_999, 70_000], deny=[9])
        found, _ = index.search(queries, 3, one_list)
        np.testing.assert_array_equal(found, brute_force(items, queries, 3, lambda _, i: i in (5, 2_999))[0])

    def test_an_attribute_that_changes_is_heeded_at_once(self):
        index = LiveIndex.build([1, 2], np.eye(2), QUIET, {"language": ["en", "fr"]}, background=False)
        english = Filter(where=pc.field("language") == "en")
        assert index.search(np.ones((1, 2)), 2, english)[0].tolist() == [[1, -1]]
        index.upsert([1, 2], np.eye(2), {"language": ["de", "en"]})
        assert index.search(np.ones((1, 2)), 2, english)[0].tolist() == [[2, -1]]


class TestMistakes:
    @pytest.fixture
    def index(self):
        return LiveIndex.build([1, 2], np.eye(2), QUIET, {"language": ["en", "fr"], "n": [1, 2]}, background=False)

    @pytest.mark.parametrize("condition", [pc.field("langage") == "en", pc.field("n") == "en", pc.field("n") + 1])
    def test_a_condition_that_cannot_be_told_names_the_attributes(self, index, condition):
        with pytest.raises(UserError, match="condition") as caught:
            index.search(np.ones((1, 2)), 1, Filter(where=condition))
        assert "language (string)" in str(caught.value)

    @pytest.mark.parametrize("name", ["allow", "deny"])
    def test_lists_for_more_or_fewer_queries(self, index, name):
        with pytest.raises(UserError, match=f"1 `{name}` lists for 2 queries"):
            index.search(np.ones((2, 2)), 1, Filter(**{name: Ragged.from_rows([[1]])}))

    def test_a_condition_on_an_index_without_attributes(self):
        index = LiveIndex.build([1], np.eye(2)[:1], QUIET, background=False)
        with pytest.raises(UserError, match="Attributes: none"):
            index.search(np.ones((1, 2)), 1, Filter(where=pc.field("n") == 1))


def test_conditions_that_differ_in_the_middle_of_a_long_list_are_two():
    """Arrow's words for them are the same: of a long list they tell the ends."""
    size = 200
    index = LiveIndex.build(np.arange(size), clustered(size), QUIET, {"n": np.arange(size)}, background=False)
    ends = [*range(20), *range(180, 200)]
    for middle in (50, 51, 50):
        condition = pc.field("n").isin(sorted([*ends, middle]))
        found, _ = index.search(clustered(1, seed=1), size, Filter(where=condition))
        assert sorted(found[found >= 0].tolist()) == sorted([*ends, middle])


def test_a_condition_that_always_holds_needs_no_attribute():
    index = LiveIndex.build(np.arange(5), clustered(5), QUIET, background=False)
    assert (index.search(clustered(1), 5, Filter(where=pc.scalar(True)))[0] >= 0).all()


def test_a_condition_is_told_from_what_was_there_when_it_was_asked(monkeypatch):
    """A slot that nobody sees is written, with a word that nobody knew, while another search looks at all slots."""
    attributes = Attributes(pa.schema({"word": pa.string()}), 4)
    attributes.write(np.arange(4), pa.table({"word": ["a", "b", "a", "b"]}))
    real, seen = pyarrow.dataset.dataset, []

    def meanwhile(table):
        attributes.write(np.array([3]), pa.table({"word": ["new"]}))
        table.validate(full=True)
        seen.append(table["word"].to_pylist())
        return real(table)

    monkeypatch.setattr(pyarrow.dataset, "dataset", meanwhile)
    assert attributes.matching(pc.field("word") == "b", slice(4)).tolist() == [False, True, False, True]
    assert seen == [["a", "b", "a", "b"]]


def test_a_condition_asked_for_again_and_again_follows_every_update():
    rng, items, index = np.random.default_rng(0), {}, None
    index = LiveIndex(4, LiveConfig(shadow_rate=0, fold_at=1), pa.schema({"n": pa.int64()}), exact_builder, False)
    query = np.ones((1, 4), np.float32)
    for number in range(60):
        ids = rng.choice(50, 8, replace=False)
        if number % 3 == 2:
            index.delete(ids)
            for i in ids.tolist():
                items.pop(i, None)
        else:
            values, vectors = rng.integers(0, 6, 8), rng.normal(size=(8, 4)).astype(np.float32)
            index.upsert(ids, vectors, {"n": values})
            items.update({i: (v, x) for i, v, x in zip(ids.tolist(), values.tolist(), vectors, strict=True)})
        if number % 7 == 3:
            index.rebuild()
        index.maintain()
        for n in (2, 4):
            found, _ = index.search(query, 60, Filter(where=pc.field("n") < n))
            wanted, _ = brute_force({i: x for i, (_, x) in items.items()}, query, 60, lambda _, i, n=n: items[i][0] < n)
            np.testing.assert_array_equal(found, wanted)
