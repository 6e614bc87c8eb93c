"""What baselines that answer by a history share: the log as a matrix, users by items, and a history as a row of it."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from evaluation.protocol import InteractionLog
from inputs.ragged import Ragged


def liked_matrix(interactions: InteractionLog, num_users: int, num_items: int, until: int) -> csr_matrix:
    """[U, N] sparse float32: 1 where a known user liked an item before `until` (seconds), however often."""
    stop = int(np.searchsorted(interactions.times, until, side="left"))
    users, items = interactions.users[:stop], interactions.items[:stop]
    known = users > 0  # strangers all stand at position 0: what they liked together, nobody did
    ones = np.ones(np.count_nonzero(known), np.float32)
    liked = csr_matrix((ones, (users[known], items[known])), (num_users, num_items))
    liked.data[:] = 1.0
    return liked


def liked_counts(interactions: InteractionLog, num_items: int, until: int) -> np.ndarray:
    """[N] float32: positives of each item before `until` (seconds), strangers' too."""
    stop = int(np.searchsorted(interactions.times, until, side="left"))
    return np.bincount(interactions.items[:stop], minlength=num_items).astype(np.float32)


def tie_break(counts: np.ndarray, most: float) -> np.ndarray:
    """[N]: popularity, scaled so that the most popular has `most`."""
    return counts * (most / max(counts.max(initial=0.0), 1.0))


def history_matrix(histories: Ragged, num_items: int) -> csr_matrix:
    """[q, N] sparse float32: 1 where the history holds an item, however often."""
    ones = np.ones(len(histories.values), np.float32)
    asked = csr_matrix((ones, histories.values.copy(), histories.row_splits), (len(histories), num_items))
    asked.sum_duplicates()
    asked.data[:] = 1.0
    return asked
