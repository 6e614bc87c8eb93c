"""Both protocols equal a loop over the log: histories strictly before, only new items asked for, everything counted."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.protocol import queries_at_cutoff, queries_rolling
from inputs.histories import Histories
from inputs.interactions import Interactions

EVENTS = st.integers(0, 40).flatmap(
    lambda size: st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 12)), min_size=size, max_size=size
    )
)
LENGTH = 3


def log_of(events):
    """Interactions of (user, item, time), in time order."""
    events = sorted(events, key=lambda event: event[2])
    users, items, times = (np.array([event[part] for event in events], np.int64) for part in range(3))
    return Interactions(users, items, times)


def naive(log, start, stop, at_cutoff):
    """({(user, time): (history, seen, relevant)}, counts), by the book."""
    events = list(zip(log.users.tolist(), log.items.tolist(), log.times.tolist(), strict=True))
    asked: dict[tuple[int, int], set[int]] = defaultdict(set)
    counts = dict.fromkeys(("positives", "unknown_user", "already_seen", "nothing_new"), 0)
    liked = set()
    for user, item, time in events:
        if start <= time < stop:
            counts["positives"] += 1
            if user == 0:
                counts["unknown_user"] += 1
                continue
            query = asked[user, start if at_cutoff else time]
            if (user, item) in liked:
                counts["already_seen"] += 1
            else:
                query.add(item)
        liked.add((user, item))
    queries = {}
    for user, time in sorted(asked):
        if not asked[user, time]:
            counts["nothing_new"] += 1
            continue
        seen = [item for other, item, then in events if other == user and then < time]
        queries[user, time] = (seen[-LENGTH:], seen, sorted(asked[user, time]))
    return queries, counts


@pytest.mark.parametrize("protocol", [queries_rolling, queries_at_cutoff])
@settings(deadline=None, max_examples=150)
@given(EVENTS, st.integers(0, 7), st.integers(5, 13))
def test_queries_equal_a_loop_over_the_log(protocol, events, start, stop):
    log = log_of(events)
    queries, counts = protocol(log, Histories(log), start, stop, LENGTH, 1_000, 0)
    expected, expected_counts = naive(log, start, stop, protocol is queries_at_cutoff)
    assert list(zip(queries.users.tolist(), queries.times.tolist(), strict=True)) == list(expected)
    for row, (history, seen, relevant) in enumerate(expected.values()):
        assert queries.histories.row(row).tolist() == history
        assert queries.seen.row(row).tolist() == seen
        assert queries.relevant.row(row).tolist() == relevant
    assert counts == {
        **expected_counts,
        "sampled_out": 0,
        "queries": len(expected),
        "users": len({user for user, _ in expected}),
        "empty_history": sum(not history for history, _, _ in expected.values()),
    }


@pytest.mark.parametrize("protocol", [queries_rolling, queries_at_cutoff])
def test_a_sample_is_seeded_counted_and_in_order(protocol):
    rng = np.random.default_rng(0)
    log = log_of(np.stack([rng.integers(1, 60, 900), rng.integers(0, 500, 900), rng.integers(0, 100, 900)], 1).tolist())
    histories = Histories(log)

    def asked(most, seed):
        queries, counts = protocol(log, histories, 50, 100, LENGTH, most, seed)
        return list(zip(queries.users.tolist(), queries.times.tolist(), strict=True)), counts

    everything, whole = asked(10_000, 0)
    some, counts = asked(20, 0)
    assert len(some) == counts["queries"] == 20
    assert counts["sampled_out"] == len(everything) - 20
    assert some == sorted(some)
    assert set(some) < set(everything)
    assert asked(20, 0)[0] == some
    assert asked(20, 1)[0] != some
    assert whole["sampled_out"] == 0


def test_at_the_cutoff_right_answers_ascend_whatever_came_first():
    log = log_of([(1, 0, 0), (1, 5, 6), (1, 2, 7), (1, 0, 8), (2, 9, 8)])
    queries, counts = queries_at_cutoff(log, Histories(log), 5, 10, LENGTH, 10, 0)
    assert [queries.relevant.row(row).tolist() for row in (0, 1)] == [[2, 5], [9]]
    assert queries.times.tolist() == [5, 5]
    assert counts["already_seen"] == 1
    assert counts["empty_history"] == 1


def test_take_keeps_a_query_whole():
    log = log_of([(1, 0, 0), (1, 1, 5), (2, 2, 6), (2, 3, 6), (1, 4, 7)])
    queries, _ = queries_rolling(log, Histories(log), 5, 10, LENGTH, 10, 0)
    taken = queries.take(np.array([2, 0]))
    assert taken.users.tolist() == [2, 1]
    assert taken.times.tolist() == [6, 5]
    assert [taken.relevant.row(row).tolist() for row in (0, 1)] == [[2, 3], [1]]
    assert [taken.seen.row(row).tolist() for row in (0, 1)] == [[], [0]]
    assert len(taken) == 2
