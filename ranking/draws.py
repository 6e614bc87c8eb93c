"""Random numbers that are a function of the step alone, so that a resumed run draws what an undisturbed one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foundation.tf import tf


def uniform(shape: Sequence[Any] | tf.Tensor, step: tf.Tensor, seed: int) -> tf.Tensor:
    """Float32 in [0, 1) of `shape`. step: [] int64; seed: tells one use from another."""
    return tf.random.stateless_uniform(shape, tf.stack([tf.cast(step, tf.int64), tf.constant(seed, tf.int64)]))
