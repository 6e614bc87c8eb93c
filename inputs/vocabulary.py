"""Values to embedding ids: 0 is the unknown, the rest is counted from 1."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class IdMap(Protocol):
    """Maps raw values to embedding ids 0..size-1."""

    @property
    def size(self) -> int:
        """Rows that a table needs for these ids."""

    def ids(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """[n] int64."""


class Vocabulary:
    """The values seen in training, in order of first appearance or as given; all others are 0."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values

    @property
    def size(self) -> int:
        return len(self.values) + 1

    def ids(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """[n] int64 in 0..len(values)."""
        found = pc.index_in(values, value_set=self.values)
        return _numpy(pc.add(pc.fill_null(found, -1), 1)).astype(np.int64)


class Hashing:
    """Every value shares one of `buckets` rows, by its hash: no vocabulary, and collisions. Nulls are 0."""

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets

    @property
    def size(self) -> int:
        return self.buckets + 1

    def ids(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """[n] int64 in 0..buckets."""
        known = _numpy(pc.is_valid(values))
        return np.where(known, 1 + hashed(values, self.buckets), 0)


def hashed(values: pa.Array | pa.ChunkedArray, buckets: int) -> np.ndarray:
    """[n] int64 in 0..buckets-1. Integers go through `splitmix64`, text through BLAKE2b, once per distinct value."""
    if pa.types.is_integer(values.type):
        numbers = _numpy(pc.fill_null(values, 0)).astype(np.int64).view(np.uint64)
    else:
        encoded = pc.dictionary_encode(pc.fill_null(pc.cast(values, pa.string()), ""))
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in encoded.dictionary.to_pylist()]
        numbers = np.frombuffer(b"".join(digests), "<u8")[encoded.indices.to_numpy()]
    return (splitmix64(numbers) % np.uint64(buckets)).astype(np.int64)


def splitmix64(numbers: np.ndarray) -> np.ndarray:
    """[n] uint64 -> [n] uint64: the finaliser of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators" (OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _numpy(array: Any) -> np.ndarray:
    """Arrow arrays have `to_numpy(zero_copy_only)`, chunked ones do not take the argument."""
    if isinstance(array, pa.ChunkedArray):
        return array.to_numpy()
    return array.to_numpy(zero_copy_only=False)
