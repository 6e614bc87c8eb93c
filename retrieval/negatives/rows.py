"""Candidates, with what the loss must know of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from foundation.tf import tf
from inputs.sampling import NEVER
from strategies.share import BatchShare, gathered


class Rows(NamedTuple):
    """vectors: [n, D] float32. items: [n] int64 positions, negative: there is none. log_q: [n] float32, the log of the
    probability that a row of a batch is this item; log_draws: [n] float32, the log of how often the batch's draws from
    the catalogue are expected to hold it."""

    vectors: tf.Tensor
    items: tf.Tensor
    log_q: tf.Tensor
    log_draws: tf.Tensor

    @classmethod
    def of(cls, vectors: tf.Tensor, items: tf.Tensor, log_q: tf.Tensor, log_draws: tf.Tensor | None) -> Rows:
        """log_draws: None: nothing is drawn."""
        return cls(vectors, items, log_q, tf.fill(tf.shape(log_q), NEVER) if log_draws is None else log_draws)

    def everywhere(self, share: BatchShare) -> Rows:
        """Those of all ranks, in the order of ranks; self is a rank's share. One exchange of vectors and one of their
        gradients, one of the rest, floats as their bits."""
        if share.communicator.size == 1:
            return self
        bits = [tf.cast(tf.bitcast(each, tf.int32), tf.int64) for each in (self.log_q, self.log_draws)]
        told = gathered(share, tf.stack([self.items, *bits], 1))
        log_q, log_draws = (tf.bitcast(tf.cast(told[:, column], tf.int32), tf.float32) for column in (1, 2))
        return Rows(gathered(share, self.vectors), told[:, 0], log_q, log_draws)

    @property
    def count(self) -> tf.Tensor:
        """[] float32: rows that hold an item."""
        return tf.math.count_nonzero(self.items >= 0, dtype=tf.float32)


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all, one part behind the other."""
    return parts[0] if len(parts) == 1 else Rows(*(tf.concat(columns, 0) for columns in zip(*parts, strict=True)))
