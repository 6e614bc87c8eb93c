import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs.simulate.calendar import Calendar
from inputs.simulate.policy import Policy, Pool, plackett_luce
from inputs.simulate.population import Population


def one_by_one(weights, order):
    """The probability of each choice in `order` among what is left: Plackett-Luce by its definition."""
    left = dict(enumerate(weights))
    probabilities = []
    for choice in order:
        probabilities.append(left[choice] / sum(left.values()))
        del left[choice]
    return probabilities


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=12), st.integers(0, 2**30))
def test_plackett_luce_propensities_follow_the_definition(scores, seed):
    scores = np.array([scores])
    order, log_propensity = plackett_luce(scores, np.random.default_rng(seed).gumbel(size=scores.shape))
    expected = one_by_one(np.exp(scores[0]), order[0])
    np.testing.assert_allclose(np.exp(log_propensity[0]), expected, rtol=1e-9)


def test_plackett_luce_choices_have_their_propensities_and_sum_to_one():
    weights = np.array([4.0, 2.0, 1.0, 0.5])
    rows = 200_000
    scores = np.tile(np.log(weights), (rows, 1))
    order, log_propensity = plackett_luce(scores, np.random.default_rng(0).gumbel(size=scores.shape))
    total = 0.0
    for pair in itertools.permutations(range(4), 2):
        drawn = (order[:, :2] == pair).all(axis=1)
        expected = np.prod(one_by_one(weights, pair))
        assert abs(drawn.mean() - expected) < 5 * np.sqrt(expected / rows)
        np.testing.assert_allclose(np.exp(log_propensity[drawn, :2].sum(axis=1)), expected, rtol=1e-12)
        total += expected
    assert total == pytest.approx(1.0)


def test_candidates_that_are_not_eligible_are_never_placed_before_those_that_are():
    scores = np.array([[0.0, -np.inf, 1.0, -np.inf, 2.0]])
    order, log_propensity = plackett_luce(scores, np.zeros((1, 5)))
    assert order[0, :3].tolist() == [4, 2, 0]
    assert log_propensity[0, 2] == 0.0


def test_slates_of_a_pool_are_plackett_luce():
    weights, rows = np.array([5.0, 3.0, 1.0, 1.0]), 200_000
    pool = Pool.of(np.array([10, 20, 30, 40]), weights)
    slates, propensities = pool.slates(np.random.default_rng(1).random((rows, 3)))
    for triple in itertools.permutations(range(4), 3):
        drawn = (slates == pool.items[list(triple)]).all(axis=1)
        expected = one_by_one(weights, triple)
        assert abs(drawn.mean() - np.prod(expected)) < 5 * np.sqrt(np.prod(expected) / rows)
        np.testing.assert_allclose(propensities[drawn], np.tile(expected, (drawn.sum(), 1)), rtol=1e-9)


def test_a_slate_of_a_whole_pool_is_a_permutation():
    pool = Pool.of(np.arange(12), np.arange(1, 13) ** -3.0)
    slates, propensities = pool.slates(np.random.default_rng(2).random((500, 12)))
    np.testing.assert_array_equal(np.sort(slates, axis=1), np.tile(np.arange(12), (500, 1)))
    np.testing.assert_allclose(propensities[:, -1], 1.0, rtol=1e-6)


@pytest.fixture(scope="module")
def opened(small_config):
    population = Population.draw(small_config)
    policy = Policy(population, small_config)
    midnight = Calendar(population.users, small_config).midnight(1)
    policy.open_day(1, midnight)
    return population, policy, midnight


def test_the_feed_shows_distinct_published_items_not_shown_lately(opened, small_config):
    population, policy, midnight = opened
    users = np.arange(small_config.users)
    nothing = np.full((len(users), small_config.no_repeat), -1, np.int32)
    first, propensities = policy.feed(0, users, nothing)
    assert (propensities > 0).all()
    assert (propensities <= 1).all()
    assert (population.items.published[first] < midnight).all()
    assert (np.diff(np.sort(first, axis=1), axis=1) > 0).all()
    shown = np.concatenate([first, nothing], axis=1)[:, : small_config.no_repeat].astype(np.int32)
    again, _ = policy.feed(0, users, shown)  # the same draws, so the same candidates, less those shown
    assert not (again[:, :, None] == first[:, None, :]).any()


def test_the_feed_prefers_what_the_user_likes(opened, small_config):
    population, policy, _ = opened
    users = np.arange(small_config.users)
    slates, _ = policy.feed(0, users, np.full((len(users), small_config.no_repeat), -1, np.int32))
    chance, _ = policy.explore(0, len(users))
    liking = [(population.users.vector[users][:, None] * population.items.vector[s]).sum(-1) for s in (slates, chance)]
    assert liking[0].mean() > liking[1].mean() + 0.3
    assert liking[0][:, 0].mean() > liking[0][:, -1].mean()


def test_feed_slates_do_not_hang_on_what_is_asked_together(opened, small_config):
    _, policy, _ = opened
    users = np.arange(100)
    shown = np.full((100, small_config.no_repeat), -1, np.int32)
    whole, parts = policy.feed(0, users, shown), [policy.feed(k, users[k : k + 7], shown[:7]) for k in range(0, 98, 7)]
    np.testing.assert_array_equal(whole[0][:98], np.concatenate([part[0] for part in parts]))
    np.testing.assert_array_equal(whole[1][:98], np.concatenate([part[1] for part in parts]))
