"""Items drawn beside a batch: from what is published, as often as is told, the same on any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs.sampling import NEVER, NOT_YET, Beside, CatalogueSampler


def sampler(counts, publication=None, **options) -> CatalogueSampler:
    return CatalogueSampler(Beside(**options), np.array(counts), publication, seed=4)


@settings(deadline=None, max_examples=20)
@given(
    items=st.integers(1, 8),
    uniform=st.integers(0, 3),
    popular=st.integers(0, 3),
    power=st.sampled_from([0.0, 0.75, 1.0]),
    moment=st.integers(-1, 12),
    seed=st.integers(0, 2**31),
)
def test_items_come_as_often_as_is_told_and_none_before_it_is_published(items, uniform, popular, power, moment, seed):
    rng = np.random.default_rng(seed)
    counts, publication = rng.integers(0, 5, items), rng.integers(0, 10, items)
    draws = sampler(counts, publication, uniform=uniform, popular=popular, popularity_power=power)
    assert draws.size == uniform + popular
    times = 2_000
    drawn = np.concatenate([draws.draw(0, k, moment) for k in range(times)])
    seen = np.bincount(drawn[drawn != NOT_YET], minlength=items) / times
    told = draws.log_draws(np.arange(items), moment)
    expected = np.where(told == NEVER, 0.0, np.exp(told))
    np.testing.assert_allclose(seen, expected, atol=5 * np.sqrt(draws.size / times) + 1e-9)
    assert (seen[(publication > moment)] == 0).all()
    assert ((seen > 0) <= (told > NEVER)).all()


def test_popular_items_are_drawn_by_a_power_of_their_positives():
    draws = sampler([0, 1, 16], popular=8, popularity_power=0.5)
    np.testing.assert_allclose(draws.log_draws(np.arange(3), 0), [NEVER, np.log(8 / 5), np.log(8 * 4 / 5)], rtol=1e-6)


def test_a_draw_is_a_function_of_epoch_and_batch():
    draws = sampler(np.ones(1_000), uniform=50, popular=20)
    first = draws.draw(1, 7, 0)
    np.testing.assert_array_equal(first, sampler(np.ones(1_000), uniform=50, popular=20).draw(1, 7, 0))
    assert not np.array_equal(first, draws.draw(1, 8, 0))
    assert not np.array_equal(first, draws.draw(2, 7, 0))


def test_the_whole_catalogue_is_what_is_published():
    draws = sampler([1, 1, 1], np.array([5, 0, 9]), catalogue=True)
    assert draws.draw(0, 0, 5).tolist() == [0, 1, NOT_YET]


@pytest.mark.parametrize("moment", [-1, 0])
def test_nothing_is_drawn_of_what_is_not_there(moment):
    counts = [0, 0]  # nothing is popular; at -1 nothing is published either
    draws = sampler(counts, np.zeros(2, np.int64), uniform=2, popular=3)
    drawn = draws.draw(0, 0, moment)
    assert (drawn[2:] == NOT_YET).all()
    assert (drawn[:2] == NOT_YET).all() == (moment < 0)
