import numpy as np
import pytest

from foundation.errors import UserError
from inputs.simulate.truth import Truth


@pytest.fixture(scope="module")
def truth(small_world):
    return Truth.open(small_world.path)


@pytest.fixture(scope="module")
def events(small_world):
    return small_world.events(["user_id", "item_id", "timestamp", "position", "click", "like"])


def test_clicks_come_at_their_true_probability(truth, events):
    names = ("user_id", "item_id", "position", "timestamp")
    probability = truth.click_probability(*(events[name].to_numpy() for name in names))
    click = events["click"].to_numpy()
    for lower, upper in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 1.0)):
        rows = (probability >= lower) & (probability < upper)
        spread = np.sqrt((probability[rows] * (1 - probability[rows])).sum())
        assert abs(click[rows].sum() - probability[rows].sum()) < 4 * spread


def test_likes_come_from_satisfaction(truth, events):
    satisfied = truth.satisfaction(events["user_id"].to_numpy(), events["item_id"].to_numpy())
    assert (satisfied > 0).all()
    assert (satisfied < 1).all()
    like = events["like"].to_numpy(zero_copy_only=False)
    clicked = np.isfinite(like)
    probability = 0.25 * satisfied[clicked] + 0.01 * (1 - satisfied[clicked])
    assert abs(like[clicked].sum() - probability.sum()) < 4 * np.sqrt((probability * (1 - probability)).sum())


def test_clickbait_is_clicked_more_and_satisfies_less(truth, events):
    bait = truth.is_clickbait(events["item_id"].to_numpy())
    satisfied = truth.satisfaction(events["user_id"].to_numpy(), events["item_id"].to_numpy())
    assert satisfied[bait].mean() < satisfied[~bait].mean() - 0.1
    assert bait[events["click"].to_numpy() == 1].mean() > 0.25


def test_an_old_item_and_a_low_place_are_clicked_less(truth):
    user, item = truth.users.ids[:1], truth.items.ids[:1]
    published = truth.items.published[:1]
    fresh, old = (truth.click_probability(user, item, [0], published + days * 86_400)[0] for days in (0, 300))
    assert old == pytest.approx(fresh * (1 - truth.config.novelty_drop))
    low = truth.click_probability(user, item, [3], published)[0]
    assert low == pytest.approx(fresh * 4**-truth.config.position_decay)


def test_ids_of_another_world_are_refused(truth):
    with pytest.raises(UserError, match="item -5 is not of this world"):
        truth.satisfaction(truth.users.ids[:2], np.array([truth.items.ids[0], -5]))
    with pytest.raises(UserError, match="user 1099511627776"):
        truth.satisfaction([2**40], truth.items.ids[:1])


def test_a_log_without_truth_and_a_damaged_truth_are_told(tmp_path):
    with pytest.raises(UserError, match="only a simulated world has one"):
        Truth.open(tmp_path)
    (tmp_path / "truth").mkdir()
    with pytest.raises(UserError, match="damaged"):
        Truth.open(tmp_path)
