"""Random numbers that are a pure function of (seed, purpose, row): whatever is drawn before, beside or in what pieces.

The generator is Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based one: row r
of a stream begins at counter r x width / 4, so a piece of the rows is drawn without drawing those before it.
"""

from __future__ import annotations

import zlib

import numpy as np

_WORDS_PER_COUNT = 4  # Philox 4x64 makes four 64-bit words at each count of its counter


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator for what is drawn whole, in one go."""
    return np.random.Generator(_philox(seed, purpose))


def uniforms(seed: int, purpose: str, first_row: int, rows: int, width: int) -> np.ndarray:
    """[rows, width] float64 in [0, 1): rows [first_row, first_row + rows) of the stream `purpose`."""
    counts_per_row = -(-width // _WORDS_PER_COUNT)
    philox = _philox(seed, purpose)
    philox.advance(first_row * counts_per_row)
    drawn = np.random.Generator(philox).random((rows, counts_per_row * _WORDS_PER_COUNT))
    return np.ascontiguousarray(drawn[:, :width])


def scattered_ids(seed: int, purpose: str, count: int) -> np.ndarray:
    """[count] int64, distinct, in [0, 2**40): the images of 0..count-1 under a keyed bijection, so that an id says
    nothing of its owner, and fits a JSON number."""
    bits, mask = np.uint64(40), np.uint64(2**40 - 1)
    keys = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(4, np.uint64)
    ids = np.arange(count, dtype=np.uint64)
    for key in keys:  # xor with a shift of itself, and multiplying by an odd number, are bijections modulo 2**40
        ids = ((ids + key) * (key | np.uint64(1))) & mask
        ids ^= ids >> (bits // np.uint64(2))
    return ids.astype(np.int64)


def _philox(seed: int, purpose: str) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]))
