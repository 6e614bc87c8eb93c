"""What is asked of a recommender, and what counts as a right answer.

Both protocols split by one global time, so that nothing after a query is known to it (Y. Ji et al., "A Critical Study
on Data Leakage in Recommender System Offline Evaluation", TOIS 2023), and both ask only for new items: what the user
liked before is masked for every model alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from inputs.ragged import Ragged


class InteractionLog(Protocol):
    """Positives in time order; `inputs.interactions.Interactions` is one."""

    @property
    def users(self) -> np.ndarray: ...
    @property
    def items(self) -> np.ndarray: ...
    @property
    def times(self) -> np.ndarray: ...


class HistoryLookup(Protocol):
    """`inputs.histories.Histories` is one."""

    def before(self, users: np.ndarray, times: np.ndarray, length: int | None) -> Ragged: ...


@dataclass(frozen=True)
class Queries:
    """Q questions: what will this user like from this time on?

    users: [Q] int64 positions. times: [Q] int64 seconds; all that is known lies strictly before.
    histories: Ragged item positions, the user's latest positives, oldest first.
    seen: Ragged item positions never to be answered: all of the user's earlier positives.
    relevant: Ragged item positions, the right answers: at least one a query, ascending, none of them in `seen`.
    """

    users: np.ndarray
    times: np.ndarray
    histories: Ragged
    seen: Ragged
    relevant: Ragged

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> Queries:
        """The given queries, in that order."""
        ragged = (self.histories.take(rows), self.seen.take(rows), self.relevant.take(rows))
        return Queries(self.users[rows], self.times[rows], *ragged)


def queries_at_cutoff(
    interactions: InteractionLog,
    histories: HistoryLookup,
    start: int,
    stop: int,
    history_length: int,
    max_queries: int,
    seed: int,
) -> tuple[Queries, dict[str, int]]:
    """One query per user, at time `start`; relevant are the user's new positives in [start, stop).

    Returns:
      The queries by user, and counts (see `queries_rolling`).
    """
    window = _Window.of(interactions, start, stop).at_one_time(start)
    return _queries(window, histories, history_length, max_queries, seed)


def queries_rolling(
    interactions: InteractionLog,
    histories: HistoryLookup,
    start: int,
    stop: int,
    history_length: int,
    max_queries: int,
    seed: int,
) -> tuple[Queries, dict[str, int]]:
    """One query per distinct (user, time) in [start, stop) that has a positive; relevant are its new ones.

    Returns:
      The queries by (user, time), at most `max_queries`, a sample seeded by `seed` where there are more; and counts:
      "positives" in the window, of which "already_seen" (liked before, or twice: dropped) and "unknown_user" (dropped);
      "nothing_new": queries dropped because no relevant item was left; "sampled_out": queries beyond `max_queries`;
      "queries", "users" and "empty_history" of what remains.
    """
    return _queries(_Window.of(interactions, start, stop), histories, history_length, max_queries, seed)


@dataclass(frozen=True)
class _Window:
    """The positives of known users in [start, stop), by user, then time.

    users, items, times: [n] int64. new: [n] bool, the user's first positive on that item. unknown_user: left out.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    new: np.ndarray
    unknown_user: int

    @classmethod
    def of(cls, interactions: InteractionLog, start: int, stop: int) -> _Window:
        first, last = np.searchsorted(interactions.times, [start, stop], side="left")
        # The whole log up to `stop` of the users in the window tells which occurrence of a (user, item) is the first.
        asked = np.zeros(int(interactions.users[:last].max(initial=0)) + 1, dtype=bool)
        asked[interactions.users[first:last]] = True
        asked[0] = False
        rows = np.flatnonzero(asked[interactions.users[:last]])
        users, items = (column[rows].astype(np.int64) for column in (interactions.users, interactions.items))
        new = np.zeros(len(rows), dtype=bool)
        _, first_of_pair = np.unique(users * (int(items.max(initial=0)) + 1) + items, return_index=True)
        new[first_of_pair] = True

        inside = np.searchsorted(rows, first)
        users, items, new = users[inside:], items[inside:], new[inside:]
        times = interactions.times[rows[inside:]].astype(np.int64)
        order = np.lexsort((items, times, users))
        unknown_user = int(max(last - first, 0)) - len(users)
        return cls(users[order], items[order], times[order], new[order], unknown_user)

    def at_one_time(self, time: int) -> _Window:
        """The same positives as if all were of one moment: by user, then item."""
        order = np.lexsort((self.items, self.users))
        times = np.full_like(self.times, time)
        return _Window(self.users[order], self.items[order], times, self.new[order], self.unknown_user)


def _queries(
    window: _Window, histories: HistoryLookup, history_length: int, max_queries: int, seed: int
) -> tuple[Queries, dict[str, int]]:
    """One query per distinct (user, time) of `window`, in that order."""
    users, times = window.users, window.times
    begins = np.ones(len(users), dtype=bool)
    begins[1:] = (np.diff(users) != 0) | (np.diff(times) != 0)
    starts = np.flatnonzero(begins)
    relevant_so_far = np.append(0, np.cumsum(window.new))
    relevant = Ragged(window.items[window.new], relevant_so_far[np.append(starts, len(users))])

    askable = np.flatnonzero(relevant.lengths > 0)
    chosen = askable
    if len(askable) > max_queries:
        sample = np.random.default_rng(seed).choice(len(askable), max_queries, replace=False)
        chosen = askable[np.sort(sample)]
    query_users, query_times = users[starts[chosen]], times[starts[chosen]]
    queries = Queries(
        query_users,
        query_times,
        histories.before(query_users, query_times, history_length),
        histories.before(query_users, query_times, None),
        relevant.take(chosen),
    )
    counts = {
        "positives": len(users) + window.unknown_user,
        "unknown_user": window.unknown_user,
        "already_seen": int(np.count_nonzero(~window.new)),
        "nothing_new": len(starts) - len(askable),
        "sampled_out": len(askable) - len(chosen),
        "queries": len(queries),
        "users": len(np.unique(query_users)),
        "empty_history": int(np.count_nonzero(queries.histories.lengths == 0)),
    }
    return queries, counts
