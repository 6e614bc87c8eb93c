"""Coordinates in which an index's codes are spent on what queries look at.

A code is made to keep a vector, but a search wants its inner products with queries, and queries of a trained tower look
along few directions. With A the root of the queries' second moments E[q qT], the mean squared error of a score is the
squared error of A x, and x . q = (A x) . (A^-1 q): candidates are quantised as A x, and are asked for by A^-1 q (as in
LeanVec, Tepper et al. 2023, whose projection to fewer dimensions is here a split of the bits among them). Along the
principal axes of A x the first few, which nearly all of the score depends on, are spread over more numbers than they
are (by a tight frame: y = F z, where FT F = I), one 4-bit code each, so that the codes' errors average out (Goyal et
al., "Quantized overcomplete expansions in R^N", 1998); the rest share a few codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundation.errors import UserError, damaged
from foundation.files import atomic_file

FILE = "basis.npz"
_BITS = 4  # of a code
# Mean squared error of the best 4-bit code of 1 and of 2 normal numbers, over their variance: Max (1960); by k-means.
_DISTORTION = {1: 0.0095, 2: 0.107}
_SHARED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # codes that may be tried for the dimensions that share
_EFFICIENCY = 0.6  # of the bits of leaves and of shared codes, beside those of ideal codes
_SEED = 0
# Products of so many multiplications OpenBLAS leaves to the thread that asks: its others would still be spinning when
# ScaNN's begin.
_BY_ONE_THREAD = 200_000


@dataclass(frozen=True)
class Basis:
    """Dual bases: candidates [E, D] float32 and queries [E, D] float64, E >= D, candidatesT queries = I. blocks: one
    after the other (codes, dimensions of each); they cover E."""

    candidates: np.ndarray
    queries: np.ndarray
    blocks: tuple[tuple[int, int], ...]

    @property
    def dim(self) -> int:
        """E, of what ScaNN sees."""
        return len(self.candidates)

    def of_candidates(self, vectors: np.ndarray) -> np.ndarray:
        """[n, D] -> [n, E] float32."""
        turned: np.ndarray = vectors @ self.candidates.T
        return turned

    def of_queries(self, queries: np.ndarray) -> np.ndarray:
        """[Q, D] -> [Q, E] float32, by way of float64, so that another library comes to the same bits."""
        turned = np.empty((len(queries), self.dim), np.float32)
        rows = max(_BY_ONE_THREAD // self.queries.size, 1)
        for start in range(0, len(queries), rows):
            turned[start : start + rows] = queries[start : start + rows].astype(np.float64) @ self.queries.T
        return turned

    @classmethod
    def learned(cls, vectors: np.ndarray, queries: np.ndarray, codes: int, leaves: int) -> Basis:
        """For candidates like vectors [N, D] asked for by queries like queries [Q, D], in so many codes of 4 bits each,
        below a tree of so many leaves. Nothing is drawn: the same from the same.

        Raises:
          UserError: fewer than 2 codes for more than one dimension.
        """
        dim = vectors.shape[1]
        if codes < min(dim, 2):
            raise UserError(f"the index: {codes} codes for {dim} dimensions.", "Give it 2 or more (index.codes).")
        asked = queries.astype(np.float64)
        moments = asked.T @ asked / max(len(asked), 1)
        mean = np.trace(moments) / dim
        # what so few queries did not look at, others may: as if one more had looked everywhere alike
        moments += np.eye(dim) * (mean * dim / max(len(asked), 1) if mean > 0 else 1.0)
        squares, axes = np.linalg.eigh(moments)
        root, inverse = (axes * np.sqrt(squares)) @ axes.T, (axes / np.sqrt(squares)) @ axes.T
        seen = vectors.astype(np.float64) @ root
        variances, turn = np.linalg.eigh(np.atleast_2d(np.cov(seen.T)) if len(seen) > 1 else np.zeros((dim, dim)))
        turn = turn[:, ::-1].T
        spread, blocks = _layout(np.maximum(variances[::-1], 0.0), codes, leaves)
        width = blocks[0][0] * blocks[0][1]
        widened = np.zeros((width + dim - spread, dim))
        widened[:width, :spread] = _tight_frame(width, spread)
        widened[width:, spread:] = np.eye(dim - spread)
        return cls((widened @ turn @ root).astype(np.float32), widened @ turn @ inverse, blocks)

    def save(self, folder: Path) -> None:
        with atomic_file(folder / FILE) as path, path.open("wb") as file:
            np.savez(file, candidates=self.candidates, queries=self.queries, blocks=np.array(self.blocks))

    @classmethod
    def load(cls, folder: Path, remedy: str) -> Basis:
        """Reads what `save` wrote.

        Raises:
          UserError: it is missing or damaged.
        """
        with damaged(folder / FILE, remedy), np.load(folder / FILE, allow_pickle=False) as file:
            blocks = tuple((int(codes), int(dims)) for codes, dims in file["blocks"])
            return cls(file["candidates"], file["queries"], blocks)


def not_judged(queries: np.ndarray, judged: int) -> np.ndarray:
    """Of queries [Q, D] those after the first `judged`, which recall is measured on, to learn from; all of them where
    fewer would be left than that."""
    return queries[judged:] if len(queries) >= 2 * judged else queries


def spread(vectors: np.ndarray, count: int) -> np.ndarray:
    """At most so many of vectors [N, D], from the whole."""
    return vectors[:: -(-len(vectors) // count)]


def _tight_frame(width: int, dim: int) -> np.ndarray:
    """[width, dim] float64, orthonormal columns: width directions, alike, of a space of `dim`."""
    drawn = np.random.default_rng(_SEED).standard_normal((width, dim))
    return np.linalg.qr(drawn)[0]


def _layout(variances: np.ndarray, codes: int, leaves: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """(leading dimensions that are spread, blocks: theirs first) of least expected error.

    variances: [D], falling, of the vectors; what their leaves leave of them is taken to be what as many bits would.
    """
    dim = len(variances)
    left = _after(variances, math.log2(max(leaves, 1)))
    total = np.concatenate([[0.0], np.cumsum(left)])
    best: tuple[float, int, tuple[tuple[int, int], ...]] | None = None
    for dims, distortion in _DISTORTION.items():
        for shared in (0, *_SHARED):
            own = codes - shared
            for spread in range(1, min(dim, own * dims) + 1):
                rest = dim - spread
                if (rest == 0) != (shared == 0) or shared > rest:
                    continue
                error = distortion * total[spread] * spread / (own * dims)
                parts = np.array_split(left[spread:], shared) if shared else []
                error += sum(float(_after(part, _BITS).sum()) for part in parts)
                if best is None or error < best[0]:
                    sizes = [len(part) for part in parts]
                    blocks = [(own, dims), *((sizes.count(size), size) for size in dict.fromkeys(sizes))]
                    best = (error, spread, tuple(blocks))
    assert best is not None
    return best[1], best[2]


def _after(variances: np.ndarray, bits: float) -> np.ndarray:
    """What so many bits leave of variances [n] that fall, shared by reverse water-filling (Cover and Thomas, section
    10.3.3), at `_EFFICIENCY`."""
    if not variances[:1].any():
        return variances
    logs = np.log2(np.maximum(variances, np.finfo(float).tiny))
    for count in range(len(variances), 0, -1):
        level = (logs[:count].sum() - 2 * _EFFICIENCY * bits) / count
        if level <= logs[count - 1]:
            break
    return np.minimum(variances, 2.0**level)
