"""Initial values by counter-based hashing: a function of (seed, table, id, column) alone, never of who holds a row."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from foundation.tf import tf

_GOLDEN, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def table_key(seed: int, table: str) -> int:
    """A 64-bit key of (seed, table name)."""
    digest = hashlib.blake2b(table.encode(), key=seed.to_bytes(8, "little", signed=True), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def signed(key: int) -> int:
    """The int64 of the same bits, for a kernel's attribute."""
    return key - (1 << 64) if key >= 1 << 63 else key


def initial_rows(ids: tf.Tensor, dim: int, key: int, scale: float) -> tf.Tensor:
    """[n, dim] float32, uniform in [-scale, scale), of rows `ids` [n] int64.

    Bits of row i, column c: splitmix64(splitmix64(key + i) + c) (Steele, Lea and Flood, OOPSLA 2014); the upper 24
    make a float32 without rounding.
    """
    with tf.device("CPU:0"):  # 64-bit integer products have no kernel elsewhere
        rows = splitmix64(tf.cast(ids, tf.uint64) + tf.constant(key, tf.uint64))
        bits = splitmix64(rows[:, tf.newaxis] + tf.cast(tf.range(dim), tf.uint64)[tf.newaxis, :])
        upper = tf.cast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.float32)
        return (upper * (2.0**-23) - 1.0) * scale


def splitmix64(counter: tf.Tensor) -> tf.Tensor:
    """One mixed uint64 for each counter (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = counter + tf.constant(_GOLDEN, tf.uint64)
    for shift, factor in ((30, _M1), (27, _M2)):
        mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(shift, tf.uint64)))
        mixed *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(31, tf.uint64)))


def splitmix64_of(counter: Any) -> Any:
    """`splitmix64` of numpy's uint64, an array or a number."""
    with np.errstate(over="ignore"):
        mixed = counter + np.uint64(_GOLDEN)
        for shift, factor in ((30, _M1), (27, _M2)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))
