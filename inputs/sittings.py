"""Lists for logs that do not say which rows were seen together: sittings of one user."""

from __future__ import annotations

import numpy as np

LONGEST_PAUSE = 3600  # seconds without an event that end a sitting
LONGEST_LIST = 20  # rows; a longer sitting makes several lists


def sittings(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[rows] int64: which list each row belongs to. `users` [rows] int64 codes, `times` [rows] seconds, any order."""
    order = np.lexsort((np.arange(len(users)), times, users))
    users, times = users[order], times[order]
    new = np.ones(len(users), bool)
    new[1:] = (users[1:] != users[:-1]) | (times[1:] - times[:-1] > LONGEST_PAUSE)
    start = np.maximum.accumulate(np.where(new, np.arange(len(users)), 0))
    new |= (np.arange(len(users)) - start) % LONGEST_LIST == 0
    lists = np.empty(len(users), np.int64)
    lists[order] = np.cumsum(new) - 1
    return lists


def list_order(lists: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order in which a log is written: lists by their first row's time, rows of a list by time.

    Returns (row order [rows], number of the list of each row in that order [rows], counted from 0).
    """
    _, codes = np.unique(lists, return_inverse=True)
    by_list = np.lexsort((np.arange(len(times)), times, codes))
    sorted_codes = codes[by_list]
    starts = np.flatnonzero(np.r_[True, sorted_codes[1:] != sorted_codes[:-1]])
    first_times = times[by_list][starts]
    rank = np.empty(len(starts), np.int64)
    rank[np.lexsort((np.arange(len(starts)), first_times))] = np.arange(len(starts))
    order = by_list[np.argsort(rank[sorted_codes], kind="stable")]
    return order, np.sort(rank[sorted_codes], kind="stable")
