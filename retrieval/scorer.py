"""The two-tower model as a scorer of the evaluation: the whole catalogue, exactly."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from inputs.entities import SECONDS_PER_DAY
from inputs.ragged import Ragged
from retrieval.interests import scores_of
from retrieval.vectors import Vectors


class Asked(Protocol):
    """`evaluation.protocol.Queries` is one."""

    @property
    def users(self) -> np.ndarray: ...
    @property
    def times(self) -> np.ndarray: ...
    @property
    def histories(self) -> Ragged: ...


class TwoTowerScorer:
    """Scores by the model's inner products, the largest where a query has several vectors. A query's candidate vectors
    are those of its day, as an index built anew each day would hold them."""

    name = "two_tower"

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self._day: int | None = None
        self._candidates = np.empty((0, 0), np.float32)

    def scores(self, queries: Asked) -> np.ndarray:
        """[q, N] float32."""
        scores = np.empty((len(queries.users), 0), np.float32)
        asked = self._vectors.queries(queries.users, queries.histories)
        days = queries.times // SECONDS_PER_DAY
        for day in np.unique(days):
            rows = np.flatnonzero(days == day)
            block = scores_of(asked[rows], self._of_day(int(day)))
            if not scores.shape[1]:
                scores = np.empty((len(queries.users), block.shape[1]), np.float32)
            scores[rows] = block
        return scores

    def _of_day(self, day: int) -> np.ndarray:
        if day != self._day:
            self._candidates, self._day = self._vectors.candidates(day * SECONDS_PER_DAY), day
        return self._candidates
