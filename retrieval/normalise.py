"""Vectors of length 1."""

from __future__ import annotations

from foundation.tf import tf


def unit(vectors: tf.Tensor, biased: bool) -> tf.Tensor:
    """[..., D] of length 1, or, where the last element is the bias (1 in a query), all elements before it: an inner
    product is then a cosine plus the candidate's bias, so a temperature weighs both alike and plain maximum inner
    product search serves the model's own order."""
    if not biased:
        return tf.math.l2_normalize(vectors, axis=-1)
    return tf.concat([tf.math.l2_normalize(vectors[..., :-1], axis=-1), vectors[..., -1:]], axis=-1)
