"""Tables stored in 16 bits: stochastic rounding, so that updates smaller than a step of the format are not lost."""

from __future__ import annotations

from embeddings.hashing import splitmix64
from foundation.tf import tf

_LARGEST_HALF = 65504.0


def rounded(
    values: tf.Tensor, dtype: tf.DType, key: int, ids: tf.Tensor, updates: tf.Tensor, variable: int
) -> tf.Tensor:
    """Values [u, dim] or [u] float32 as `dtype`: up or down with the probabilities that make it right on average
    (Gupta et al., ICML 2015); itself for float32.

    The draw is a function of (table key, id, column, update, variable) alone, by the counter-based hash of
    `embeddings.hashing`, so it is the same wherever a row is held. ids: [u] int64. updates: [] int64, made before.
    variable: 0 for rows, 1 and on for slots. A float16 that would be infinite is the largest finite one.
    """
    if dtype == tf.float32:
        return values
    wide = values if values.shape.rank == 2 else values[:, tf.newaxis]
    random = _random16(wide, key, ids, updates, variable)
    stored = _bfloat16(wide, random) if dtype == tf.bfloat16 else _float16(wide, random)
    return tf.reshape(stored, tf.shape(values))


def _random16(values: tf.Tensor, key: int, ids: tf.Tensor, updates: tf.Tensor, variable: int) -> tf.Tensor:
    """[u, dim] int32 in [0, 2^16): four columns are drawn by one 64-bit hash."""
    with tf.device("CPU:0"):  # 64-bit integer products have no kernel elsewhere
        of_row = splitmix64(tf.cast(ids, tf.uint64) + tf.constant(key, tf.uint64))
        of_step = splitmix64(tf.cast(updates, tf.uint64) * tf.constant(4, tf.uint64) + variable)
        dim = tf.shape(values)[1]
        quarters = tf.cast(tf.range((dim + 3) // 4), tf.uint64)
        words = splitmix64((of_row + of_step)[:, tf.newaxis] + quarters[tf.newaxis, :])
        shifts = tf.constant([0, 16, 32, 48], tf.uint64)
        lanes = tf.bitwise.right_shift(words[:, :, tf.newaxis], shifts)
        lanes = tf.bitwise.bitwise_and(lanes, tf.constant(0xFFFF, tf.uint64))
        return tf.cast(tf.reshape(lanes, [tf.shape(values)[0], -1])[:, :dim], tf.int32)


def _bfloat16(values: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
    bits = tf.bitcast(values, tf.int32)
    bits = tf.where(tf.math.is_finite(values), bits + random, bits)
    upper = tf.bitcast(tf.bitwise.bitwise_and(bits, tf.constant(-0x10000)), tf.float32)
    return tf.cast(upper, tf.bfloat16)


def _float16(values: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
    magnitude = tf.abs(values)
    # below 2^-14 the format's step is 2^-24, else 13 bits of the float are dropped
    small = tf.floor(magnitude * 2.0**24 + tf.cast(random, tf.float32) * 2.0**-16) * 2.0**-24
    bits = tf.bitcast(magnitude, tf.int32) + tf.bitwise.right_shift(random, 3)
    large = tf.bitcast(tf.bitwise.bitwise_and(bits, tf.constant(-0x2000)), tf.float32)
    stored = tf.where(magnitude < 2.0**-14, small, tf.minimum(large, _LARGEST_HALF))
    stored = tf.where(tf.math.is_finite(magnitude), stored, magnitude)
    return tf.cast(tf.where(tf.bitcast(values, tf.int32) < 0, -stored, stored), tf.float16)
