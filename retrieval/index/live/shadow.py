"""Recall of the answers to live queries, by exact search on a sample of them, off their callers' path."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from retrieval.index.exact import exact_top
from retrieval.index.items.slots import View
from retrieval.index.recall import shares_found

WAITING = 32  # sampled searches; those beyond are not judged, and counted
JUDGED_AT = 100  # neighbours at most
KEPT = 256  # of the sampled queries, for tuning the next tree


@dataclass(frozen=True)
class Sampled:
    """An answer to be judged: queries [n, D], the slots found [n, k] and the view they were found in."""

    queries: np.ndarray
    slots: np.ndarray
    view: View


@dataclass(frozen=True)
class Recall:
    """recall: mean share of the exact top k (k as asked, at most 100) that was found, over the last `n` judged queries;
    None while there are none. unjudged: sampled queries that were not judged because too many waited."""

    recall: float | None
    n: int
    unjudged: int


class ShadowRecall:
    """Every so many-th query is sampled; a window of the latest recalls is kept. Used from several threads."""

    def __init__(self, rate: float, window: int) -> None:
        self._every = 0 if rate <= 0 else max(round(1 / rate), 1)
        self._seen = 0
        self._lock = threading.Lock()
        self._recalls: deque[float] = deque(maxlen=window)
        self._queries: deque[np.ndarray] = deque(maxlen=KEPT)
        self._waiting: deque[Sampled] = deque()
        self._unjudged = 0

    def sample(self, queries: np.ndarray, slots: np.ndarray, view: View) -> bool:
        """Keeps those queries of a search whose turn it is; says whether there were any."""
        if not self._every or not view.size:
            return False
        with self._lock:
            taken = np.arange(-self._seen % self._every, len(queries), self._every)
            self._seen += len(queries)
            if not len(taken):
                return False
            if len(self._waiting) >= WAITING:
                self._unjudged += len(taken)
                return False
            self._waiting.append(Sampled(queries[taken].copy(), slots[taken][:, :JUDGED_AT].copy(), view))
            self._queries.extend(queries[taken].copy())
        return True

    def next(self) -> Sampled | None:
        """The sampled search that has waited longest, which waits no more."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def judge(self, sampled: Sampled) -> None:
        """Judges a sampled search. No slot of its view may be used again meanwhile."""
        view, k = sampled.view, sampled.slots.shape[1]
        there = np.flatnonzero(view.visible_mask())
        _, wanted = exact_top(view.vectors, there, view.ids, sampled.queries, min(k, len(there)), None)
        found = np.einsum("qkd,qd->qk", view.vectors[sampled.slots], sampled.queries)
        shares = shares_found(np.where(sampled.slots >= 0, found, -np.inf), wanted)
        with self._lock:
            self._recalls.extend(shares.tolist())

    def recall(self) -> Recall:
        with self._lock:
            mean = float(np.mean(self._recalls)) if self._recalls else None
            return Recall(mean, len(self._recalls), self._unjudged)

    def queries(self) -> np.ndarray | None:
        """The latest sampled queries [n, D]; None while there are none."""
        with self._lock:
            return np.stack(self._queries) if self._queries else None

    def forget(self) -> None:
        """Begins a new window: what is searched has changed."""
        with self._lock:
            self._recalls.clear()
