"""The ids a batch looks up."""

from __future__ import annotations

import math

import numpy as np

EXPONENT = 1.05  # of the Zipf law: click logs lie between 1.0 and 1.2
_STRIDE = 2_654_435_761  # scatters neighbours in popularity over the table (Knuth's multiplicative hash)


def uniform_ids(generator: np.random.Generator, shape: tuple[int, ...], vocabulary_size: int) -> np.ndarray:
    """int64, each id equally likely."""
    return generator.integers(0, vocabulary_size, shape)


def skewed_ids(generator: np.random.Generator, shape: tuple[int, ...], vocabulary_size: int) -> np.ndarray:
    """int64, the k-th most popular id with probability proportional to k ** -EXPONENT; popularity is spread over the
    table."""
    shares = np.cumsum(np.arange(1, vocabulary_size + 1, dtype=np.float64) ** -EXPONENT)
    ranks = np.searchsorted(shares, generator.random(shape) * shares[-1])
    stride = _STRIDE
    while math.gcd(stride, vocabulary_size) != 1:  # a bijection of the ids
        stride += 2
    return np.minimum(ranks, vocabulary_size - 1) * stride % vocabulary_size


DISTRIBUTIONS = {"uniform": uniform_ids, "skewed": skewed_ids}
