"""The candidates of the batches before, as negatives of this one."""

from __future__ import annotations

from foundation.tf import keras, tf
from retrieval.negatives.rows import Rows
from retrieval.state import state_of

NOBODY = -1


class CandidateQueue(keras.layers.Layer):
    """The last `capacity` candidates, first in, first out, as they were then (Wang et al., "Cross-Batch Negative
    Sampling for Training Two-Tower Recommenders", SIGIR 2021): vectors, without a gradient (`RetrievalLoss` says what
    stands in for it), items, and how often they were sampled at their time. While training begins vectors move too fast
    to be kept: before `after` batches have come nothing is given. Every rank gives it the whole global batch, so all
    hold the same."""

    def __init__(self, capacity: int, dim: int, after: int, name: str = "candidate_queue") -> None:
        super().__init__(name=name, autocast=False)
        self._capacity, self._after = capacity, after
        self._vectors = state_of(self, "vectors", [capacity, dim], tf.float32)
        self._items = state_of(self, "items", [capacity], tf.int64, NOBODY)
        self._logs = state_of(self, "logs", [capacity, 2], tf.float32)
        self._batches = state_of(self, "batches", [], tf.int64)
        self._next = state_of(self, "next", [], tf.int64)

    def rows(self) -> Rows:
        """[capacity] of them; an empty place holds a negative item."""
        ready = self._batches >= self._after
        items = tf.where(ready, self._items, tf.fill([self._capacity], tf.constant(NOBODY, tf.int64)))
        return Rows(tf.identity(self._vectors), items, self._logs[:, 0], self._logs[:, 1])

    def push(self, rows: Rows) -> None:
        """The last ones of a batch that is larger than the queue."""
        last = Rows(*(tf.stop_gradient(column)[-self._capacity :] for column in rows))
        count = tf.size(last.items, tf.int64)
        places = (self._next + tf.range(count)) % self._capacity
        self._vectors.scatter_update(tf.IndexedSlices(last.vectors, places))
        self._items.scatter_update(tf.IndexedSlices(last.items, places))
        self._logs.scatter_update(tf.IndexedSlices(tf.stack([last.log_q, last.log_draws], 1), places))
        self._next.assign((self._next + count) % self._capacity)
        self._batches.assign_add(1)
