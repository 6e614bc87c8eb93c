"""Leave-one-out as SASRec has it: the last item asks, the one before validates, the rest trains."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.config import EvaluationConfig
from evaluation.harness import Catalogue, evaluate
from evaluation.leave_one_out import SAMPLED, leave_one_out, sampled_metrics
from foundation.errors import UserError
from inputs.histories import Histories

ITEMS = 150
EVENTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(0, 6)), max_size=60
)  # user, item, time: times tie, items repeat
CONFIG = EvaluationConfig(cutoffs=(10,), bootstrap_samples=100)


def log_of(events):
    events = sorted(events, key=lambda event: event[2])
    users, items, times = (np.array([event[part] for event in events], np.int64) for part in range(3))
    return SimpleNamespace(users=users, items=items, times=times)


def sequences(log):
    """{user: items in the order of the log, each once}, of known users."""
    found = {}
    for user, item in zip(log.users.tolist(), log.items.tolist(), strict=True):
        if user:
            found.setdefault(user, dict.fromkeys([])).setdefault(item)
    return {user: list(items) for user, items in found.items()}


@given(EVENTS, st.integers(1, 5))
def test_each_users_last_two_items_are_held_out_in_the_order_of_the_log(events, length):
    log = log_of(events)
    of = sequences(log)
    asked = sorted(user for user, items in of.items() if len(items) >= 3)
    if not asked:
        with pytest.raises(UserError, match="three different items"):
            leave_one_out(log, length)
        return
    parts = leave_one_out(log, length)
    trained = sequences(parts.training)
    for user, items in of.items():
        assert trained[user] == (items[:-2] if user in asked else items)
    assert (np.diff(parts.training.times) >= 0).all()
    histories = Histories(parts.training).before(parts.training.users, parts.training.times, None)
    for row, (user, item) in enumerate(zip(parts.training.users.tolist(), parts.training.items.tolist(), strict=True)):
        assert histories.row(row).tolist() == of[user][: of[user].index(item)]  # of the same second, too
    for queries, place in ((parts.validation, -2), (parts.test, -1)):
        assert queries.users.tolist() == asked
        for row, user in enumerate(asked):
            assert queries.relevant.row(row).tolist() == [of[user][place]]
            assert queries.seen.row(row).tolist() == of[user][:place]
            assert queries.histories.row(row).tolist() == of[user][:place][-length:]


class Fixed:
    name = "fixed"

    def __init__(self, scores):
        self._scores = scores

    def scores(self, queries):
        return np.broadcast_to(self._scores, (len(queries), len(self._scores))).astype(np.float32)


def users_who_like(*items_of_users):
    return leave_one_out(
        log_of([(u + 1, i, t) for u, likes in enumerate(items_of_users) for t, i in enumerate(likes)]), 9
    )


def test_sampled_metrics_rank_the_right_answer_among_a_hundred():
    test = users_who_like([1, 2, 0], [3, 4, 0]).test
    best = sampled_metrics(Fixed(-np.arange(ITEMS)), test, ITEMS, CONFIG)
    assert best["sampled_hit_rate@10"].value == best["sampled_ndcg@10"].value == 1.0
    worst = sampled_metrics(Fixed(np.arange(ITEMS)), test, ITEMS, CONFIG)
    assert worst["sampled_hit_rate@10"].value == worst["sampled_ndcg@10"].value == 0.0
    indifferent = sampled_metrics(Fixed(np.zeros(ITEMS)), test, ITEMS, CONFIG)
    assert indifferent["sampled_hit_rate@10"].value == 0.0  # whoever cannot tell items apart has found nothing


def test_a_random_model_finds_a_tenth_among_the_sampled_and_far_less_among_all():
    rng = np.random.default_rng(0)
    test = users_who_like(*(rng.permutation(2_000)[:4].tolist() for _ in range(400))).test

    class Random:
        name = "random"

        def scores(self, queries):
            return rng.random((len(queries), 2_000), np.float32)

    sampled = sampled_metrics(Random(), test, 2_000, CONFIG)["sampled_hit_rate@10"].value
    whole = evaluate([Random()], test, CONFIG, Catalogue(2_000)).metrics["random"]["hit_rate@10"].value
    assert sampled == pytest.approx(10 / (SAMPLED + 1), abs=0.05)
    assert whole < 0.03


def test_negatives_are_none_of_what_the_user_liked():
    liked = list(range(40))
    test = users_who_like(liked).test
    scores = np.zeros(ITEMS)
    scores[liked[:-1]] = 9.0  # what was liked before would outdo the right answer, if it were among the negatives
    scores[liked[-1]] = 1.0
    assert sampled_metrics(Fixed(scores), test, ITEMS, CONFIG)["sampled_ndcg@10"].value == 1.0
    with pytest.raises(UserError, match="100 negatives are wanted"):
        sampled_metrics(Fixed(scores), test, 139, CONFIG)
