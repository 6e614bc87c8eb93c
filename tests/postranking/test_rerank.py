"""A slate obeys its rules, does not hang on the candidates' order, and says why."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from postranking.candidates import Candidates
from postranking.config import PostRankingConfig
from postranking.rerank import rerank

CONFIGS = st.builds(
    PostRankingConfig,
    slate_size=st.integers(1, 15),
    diversity=st.floats(0, 1),
    freshness_weight=st.floats(0, 2),
    freshness_half_life_days=st.floats(0.1, 30),
    caps=st.sampled_from([{}, {"creator": 1}, {"creator": 2, "topic": 3}]),
    exclude_seen=st.booleans(),
)


def some_candidates(seed: int, count: int, duplicates: bool = False) -> Candidates:
    rng = np.random.default_rng(seed)
    items = rng.integers(0, count, count) if duplicates else rng.permutation(3 * count)[:count]
    ages = rng.exponential(10, count)
    ages[rng.random(count) < 0.2] = np.nan
    values = np.round(rng.gamma(2, size=count), 1).astype(np.float32)  # rounded: ties happen
    groups = {"creator": items % 6, "topic": items % 4}
    return Candidates(items, values, rng.normal(size=(count, 4)).astype(np.float32), ages, groups)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 40), CONFIGS)
def test_rules_and_caps_hold_and_counts_add_up(seed: int, count: int, config: PostRankingConfig) -> None:
    candidates = some_candidates(seed, count, duplicates=True)
    rng = np.random.default_rng(seed + 1)
    seen, blocked = rng.integers(0, max(count, 1), 5), rng.integers(0, max(count, 1), 3)
    slate = rerank(candidates, config, seen=seen, blocked=blocked)
    assert len(set(slate.items.tolist())) == len(slate.items) == len(slate.scores) == len(slate.reasons)
    assert not set(slate.items.tolist()) & set(blocked.tolist())
    assert not config.exclude_seen or not set(slate.items.tolist()) & set(seen.tolist())
    for feature, cap in config.caps.items():
        groups = Counter((slate.items % {"creator": 6, "topic": 4}[feature]).tolist())
        assert all(number <= cap for group, number in groups.items() if group != 0)
    assert slate.counts["candidates"] == count
    assert slate.counts["slate"] == len(slate.items)
    left = count - sum(slate.counts[rule] for rule in ("blocked", "seen", "duplicate"))
    assert len(slate.items) + slate.counts["capped"] <= left
    if len(slate.items) < config.slate_size:
        assert len(slate.items) + slate.counts["capped"] == left


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 40), CONFIGS)
def test_the_order_of_candidates_plays_no_part(seed: int, count: int, config: PostRankingConfig) -> None:
    candidates = some_candidates(seed, count)
    shuffled = candidates.take(np.random.default_rng(seed + 1).permutation(count))
    one, other = rerank(candidates, config), rerank(shuffled, config)
    assert one.items.tolist() == other.items.tolist()
    assert one.scores.tolist() == other.scores.tolist()
    assert (one.reasons, one.counts) == (other.reasons, other.counts)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=40),
    st.integers(0, 50),
)
def test_without_diversity_and_boost_a_slate_is_the_order_of_values(values: list[float], size: int) -> None:
    array = np.array(values, np.float32)
    count = len(array)
    candidates = Candidates(np.arange(count)[::-1], array, np.ones((count, 2)), np.zeros(count))
    slate = rerank(candidates, PostRankingConfig(diversity=0, freshness_weight=0), size)
    expected = np.lexsort((candidates.items, -array))[:size]
    assert slate.items.tolist() == candidates.items[expected].tolist()
    assert set(slate.reasons) <= {"highest value", "high value"}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_a_shorter_slate_is_the_start_of_a_longer_one(seed: int, count: int) -> None:
    candidates = some_candidates(seed, count)
    long = rerank(candidates, PostRankingConfig(), count).items
    assert rerank(candidates, PostRankingConfig(), count // 2).items.tolist() == long[: count // 2].tolist()


def test_more_diversity_means_a_more_varied_slate() -> None:
    candidates = some_candidates(3, 200)
    unit = candidates.vectors / np.linalg.norm(candidates.vectors, axis=1, keepdims=True)
    places = {int(item): row for row, item in enumerate(candidates.items)}

    def mean_similarity(diversity: float) -> float:
        slate = rerank(candidates, PostRankingConfig(diversity=diversity), 12)
        vectors = unit[[places[int(item)] for item in slate.items]]
        return float((vectors @ vectors.T)[np.triu_indices(12, 1)].mean())

    similarities = [mean_similarity(diversity) for diversity in (0.0, 0.5, 0.9)]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] > similarities[-1] + 0.05


def test_reasons_say_what_moved_an_item() -> None:
    candidates = Candidates(
        items=np.array([10, 11, 12, 13]),
        values=np.array([1.0, 0.95, 0.7, 0.9], np.float32),
        vectors=np.array([[1.0, 0], [1, 0], [0, 1], [1, 0]]),
        ages_days=np.array([40.0, np.nan, np.nan, 1.2]),
    )
    plain = PostRankingConfig(diversity=0, freshness_weight=0)
    assert rerank(candidates, plain, 2).reasons == ["highest value", "high value"]
    fresh = PostRankingConfig(diversity=0, freshness_weight=3.0)
    slate = rerank(candidates, fresh, 2)
    assert (slate.items.tolist(), slate.reasons) == ([13, 10], ["fresh: 1 day old", "highest value"])
    varied = PostRankingConfig(diversity=0.7, freshness_weight=0)
    slate = rerank(candidates, varied, 2)
    assert (slate.items.tolist(), slate.reasons) == ([10, 12], ["highest value", "adds variety"])


def test_few_or_no_candidates_make_a_short_or_empty_slate() -> None:
    assert len(rerank(some_candidates(0, 3), PostRankingConfig(), 12).items) == 3
    empty = rerank(some_candidates(0, 0), PostRankingConfig(caps={"creator": 1}))
    assert (empty.items.tolist(), empty.reasons) == ([], [])
    assert empty.counts == dict.fromkeys(("candidates", "blocked", "seen", "duplicate", "capped", "slate"), 0)
    assert len(rerank(some_candidates(0, 3), PostRankingConfig(), 0).items) == 0
    with pytest.raises(ValueError, match="-1 items"):
        rerank(some_candidates(0, 3), PostRankingConfig(), -1)


@pytest.mark.parametrize("option", [{"diversity": 1.5}, {"caps": {"creator": 0}}, {"slate_size": 0}, {"divrsity": 0.5}])
def test_options_out_of_range_or_misspelt_are_refused(option: dict) -> None:
    with pytest.raises(ValidationError):
        PostRankingConfig(**option)
