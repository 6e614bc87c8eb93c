"""Coordinates learned from queries: inner products stay what they are, and the codes keep what queries ask for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from retrieval.config import IndexConfig
from retrieval.index import Effort, Index, LiveIndex, Searcher, ShardedIndex, TreeSetting, build_sharded
from retrieval.index.basis import FILE, Basis, not_judged
from retrieval.index.codes import measured_codes
from retrieval.index.live.build import tuned_builder
from retrieval.index.live.config import LiveConfig
from retrieval.index.recall import exact_search, recall_of
from tests.retrieval.index.sources import write_npy

DIM = 32


def looking_along_few(count: int, seed: int) -> np.ndarray:
    """[count, DIM] queries that lie near 4 of the dimensions' directions."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0]
    spread = np.where(np.arange(DIM) < 4, 1.0, 0.03)
    return ((rng.standard_normal((count, DIM)) * spread) @ turn).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(1).standard_normal((4_000, DIM)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_inner_products_stay_and_every_dimension_has_its_code(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dim, codes = data.draw(st.integers(1, 24)), data.draw(st.integers(2, 40))
    kind = data.draw(st.sampled_from(["any", "one vector", "zeros", "few queries", "queries of zeros"]))
    vectors = rng.standard_normal((200, dim)).astype(np.float32)
    queries = rng.standard_normal((3 if kind == "few queries" else 300, dim)).astype(np.float32)
    if kind in ("one vector", "zeros"):
        vectors[:] = vectors[0] if kind == "one vector" else 0
    if kind == "queries of zeros":
        queries[:] = 0
    basis = Basis.learned(vectors, queries, codes, data.draw(st.integers(1, 100)))
    assert sum(count * dims for count, dims in basis.blocks) == basis.dim >= dim
    assert sum(count for count, _ in basis.blocks) == codes
    others = rng.standard_normal((50, dim)).astype(np.float32)
    held, asked = basis.of_candidates(vectors), basis.of_queries(others)
    assert held.dtype == asked.dtype == np.float32
    scale = np.linalg.norm(held, axis=1) * np.linalg.norm(asked, axis=1).max() + 1e-6
    assert (np.abs(asked @ held.T - others @ vectors.T) / scale).max() < 1e-5


def test_the_same_bytes_find_more_of_what_queries_look_for(vectors):
    queries = looking_along_few(600, 2)
    judged, others = queries[:200], queries[200:]
    wanted, _ = exact_search(vectors, judged, 50)
    found = {}
    for name, setting in (
        ("as they are", TreeSetting(20, 20, 50, None)),
        ("by queries", TreeSetting(20, 20, 50, None, codes=DIM // 2)),
    ):
        searcher = Searcher.build_tree(vectors, setting, queries=others)
        found[name] = recall_of(searcher.search(judged, 50)[0], wanted)
    assert found["by queries"] > found["as they are"] + 0.1


def test_it_is_read_back_and_a_damaged_one_is_told(vectors, tmp_path):
    queries = looking_along_few(300, 3)
    searcher = Searcher.build_tree(vectors, TreeSetting(20, 5, 100, codes=12), queries=queries)
    searcher.save(tmp_path / "s")
    again = Searcher.load(tmp_path / "s")
    for one, other in zip(again.search(queries, 20), searcher.search(queries, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "s" / FILE).write_bytes(b"PK")
    with pytest.raises(UserError, match=FILE):
        Searcher.load(tmp_path / "s")
    with pytest.raises(UserError, match=FILE):
        Basis.load(tmp_path / "s", "Build it again.")


def test_too_few_codes_are_refused(vectors):
    with pytest.raises(UserError, match="1 codes for 32 dimensions"):
        Searcher.build_tree(vectors, TreeSetting(20, 5, 100, codes=1))


def test_queries_that_judge_do_not_teach():
    queries = np.arange(10)[:, np.newaxis]
    assert not_judged(queries, 4)[:, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert len(not_judged(queries, 6)) == 10


def test_shards_share_one_and_other_queries_are_another_index(vectors, tmp_path):
    source = write_npy(tmp_path / "source", np.arange(len(vectors)), vectors)
    setting, queries = TreeSetting(20, 20, 400, codes=12), looking_along_few(600, 4)
    facts = build_sharded(source, tmp_path / "out", setting, 2, 2, 0.9, queries)
    assert facts.recall >= 0.9
    assert len({(tmp_path / "out" / name / FILE).read_bytes() for name in facts.shards}) == 1
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "shard-00000",
        "shard-00001",
        "sharded.json",
    ]
    wanted, scores = exact_search(vectors, queries[:50], 20)
    index = ShardedIndex.load(tmp_path / "out")
    found, got = index.search(queries[:50], 20, Effort(20, 4_000))
    np.testing.assert_array_equal(np.sort(found), np.sort(wanted))
    np.testing.assert_allclose(got, scores, rtol=1e-4)
    assert build_sharded(source, tmp_path / "out", setting, 2, 1, 0.9, queries) == facts
    with pytest.raises(UserError, match="queries: "):
        build_sharded(source, tmp_path / "out", setting, 2, 1, 0.9, queries[::-1].copy())


def test_codes_are_laid_out_by_queries_where_that_finds_more(vectors):
    setting = TreeSetting(20, 20, 100, None)
    assert measured_codes(vectors, looking_along_few(600, 6), setting) == DIM // 2
    assert measured_codes(vectors[:9], looking_along_few(600, 6), setting) is None
    known = Index.build(vectors, IndexConfig(brute_force_below=0), 0, looking_along_few(600, 7))
    unknown = Index.build(vectors, IndexConfig(brute_force_below=0), 0)
    fixed = Index.build(vectors, IndexConfig(brute_force_below=0, codes=None), 0, looking_along_few(600, 7))
    assert [index.searcher.setting.codes for index in (known, unknown, fixed)] == [DIM // 2, None, None]
    living = tuned_builder(LiveConfig())
    assert living(vectors, looking_along_few(600, 8)).setting.codes == DIM // 2
    assert living(vectors, None).setting.codes is None


def test_a_few_queries_decide_nothing(vectors):
    """An index that has been asked little is tuned for what it will be asked, and no codes are learned from that."""
    few, setting = looking_along_few(3, 6), TreeSetting(20, 20, 100, None)
    assert measured_codes(vectors, few[:1], setting) is None
    searcher = tuned_builder(LiveConfig())(vectors, few)
    assert searcher.setting.codes is None
    others = vectors[1::40]
    wanted, _ = exact_search(vectors, others, 100)
    assert recall_of(searcher.search(others, 100)[0], wanted) > 0.9


def test_a_job_s_index_and_one_that_lives_take_it(vectors):
    queries = looking_along_few(600, 5)
    built = Index.build(vectors, IndexConfig(brute_force_below=0, codes=12, leaves=20), 0, queries)
    wanted, _ = exact_search(vectors, queries[:100], 100)
    assert built.searcher.basis is not None
    assert recall_of(built.search(queries[:100], 100)[0], wanted) > 0.9
    builder = tuned_builder(LiveConfig(), TreeSetting(20, 20, 400, codes=12))
    config = LiveConfig(tree_from=1_000)
    with LiveIndex.build(np.arange(3_000), vectors[:3_000], config, None, builder, queries, background=False) as live:
        live.upsert(np.arange(3_000, 4_000), vectors[3_000:])
        live.delete(np.arange(10))
        live.flush()
        assert live.stats().tree_size == 3_990
        wanted, scores = exact_search(vectors[10:], queries[:50], 20)
        found, got = live.search(queries[:50], 20, effort=Effort(20, 3_990))
        np.testing.assert_array_equal(found, wanted + 10)
        np.testing.assert_allclose(got, scores, rtol=1e-6)
