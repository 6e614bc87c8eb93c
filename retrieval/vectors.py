"""Query and candidate vectors of many rows, a block at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import call

import numpy as np

from foundation.tensors import to_tensors
from foundation.tf import as_written, tf
from inputs.features import FeatureSpace, Inputs
from inputs.ragged import Ragged
from retrieval.two_tower import TwoTower

ROWS_PER_BLOCK = 4_096


class Vectors:
    """The vectors of a trained model. run: how ranks that hold it together all compute the same (`Strategy.run`)."""

    def __init__(self, model: TwoTower, space: FeatureSpace, run: Callable[..., tf.Tensor] = call) -> None:
        self._space = space
        self._embed_queries = tf.function(as_written(partial(run, model.embed_queries)), reduce_retracing=True)
        self._embed_items = tf.function(as_written(partial(run, model.embed_items)), reduce_retracing=True)

    def queries(self, users: np.ndarray, histories: Ragged) -> np.ndarray:
        """[Q, D] or [Q, interests, D] float32 of users [Q] (positions) with these histories (item positions, oldest
        first)."""
        return _by_block(
            self._embed_queries,
            lambda rows: self._space.query_inputs(users[rows], histories.take(rows)),
            len(users),
        )

    def candidates(self, now: int) -> np.ndarray:
        """[N, D] float32 of the whole catalogue as of `now` (seconds)."""
        return _by_block(self._embed_items, lambda rows: self._space.item_inputs(rows, now), len(self._space.items))


def _by_block(embed: Callable, inputs_of: Callable[[np.ndarray], Inputs], count: int) -> np.ndarray:
    blocks = (np.arange(start, min(start + ROWS_PER_BLOCK, count)) for start in range(0, count, ROWS_PER_BLOCK))
    return np.concatenate([embed(to_tensors(inputs_of(rows))).numpy() for rows in blocks])
