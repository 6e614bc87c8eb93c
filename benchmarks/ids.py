"""The ids a batch looks up."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

_STRIDE = 2_654_435_761  # scatters neighbours in popularity over the table (Knuth's multiplicative hash)

Draw = Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]


def uniform_ids(generator: np.random.Generator, shape: tuple[int, ...], vocabulary_size: int) -> np.ndarray:
    """int64, each id equally likely."""
    return generator.integers(0, vocabulary_size, shape)


def zipf_ids(
    generator: np.random.Generator, shape: tuple[int, ...], vocabulary_size: int, exponent: float
) -> np.ndarray:
    """int64, the k-th most popular id with probability proportional to k ** -exponent over the whole vocabulary; ranks
    are scattered over ids by a fixed permutation."""
    shares = np.cumsum(np.arange(1, vocabulary_size + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(shares, generator.random(shape) * shares[-1])
    stride = _STRIDE
    while math.gcd(stride, vocabulary_size) != 1:  # a bijection of the ids
        stride += 2
    return np.minimum(ranks, vocabulary_size - 1) * stride % vocabulary_size


DISTRIBUTIONS: dict[str, Draw] = {
    "uniform": uniform_ids,
    "zipf105": partial(zipf_ids, exponent=1.05),
    "zipf12": partial(zipf_ids, exponent=1.2),
}
