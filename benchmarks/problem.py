"""What one training step of an embedding is given: ids and the gradient of their vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.ids import DISTRIBUTIONS


@dataclass(frozen=True)
class Problem:
    """Batches of F features of B rows on one table of `rows` rows of zeros.

    ids: per batch, flat int64, feature by feature. splits: [F, B + 1] int64 into a feature's ids, the same for every
    batch; None: one id a row. gradient: [B, F, dim] float32, of the pooled (summed) vectors.
    """

    optimizer: str
    rows: int
    ids: list[np.ndarray]
    splits: np.ndarray | None
    gradient: np.ndarray

    @property
    def dim(self) -> int:
        return int(self.gradient.shape[2])

    @property
    def touched(self) -> float:
        """Distinct rows of a batch, on average."""
        return float(np.mean([len(np.unique(batch)) for batch in self.ids]))

    def one_hot(self, batch: int) -> np.ndarray:
        """[B, F] int64."""
        size, features, _ = self.gradient.shape
        return np.ascontiguousarray(self.ids[batch].reshape(features, size).T)

    def bags(self, batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each feature, its ids [n] and row_splits [B + 1] int64."""
        assert self.splits is not None
        pieces = np.split(self.ids[batch], np.cumsum(self.splits[:, -1])[:-1])
        return list(zip(pieces, self.splits, strict=True))

    def offsets(self) -> np.ndarray:
        """[F * B + 1] int64: where each bag begins, feature by feature."""
        size, features, _ = self.gradient.shape
        if self.splits is None:
            return np.arange(size * features + 1)
        starts = np.concatenate([[0], np.cumsum(self.splits[:, -1])])
        return np.concatenate(
            [*(start + own[:-1] for start, own in zip(starts, self.splits, strict=False)), starts[-1:]]
        )


def draw(
    distribution: str,
    rows: int,
    shape: tuple[int, int, int],
    batches: int,
    optimizer: str = "rowwise_adagrad",
    bag: int | None = None,
) -> Problem:
    """A problem of shape (B, F, dim). bag: ids in a bag on average, from 0 to twice that; None: one id a row."""
    size, features, _ = shape
    generator = np.random.default_rng(1)
    splits = None
    if bag is not None:
        lengths = generator.integers(0, 2 * bag + 1, (features, size))
        splits = np.concatenate([np.zeros((features, 1), np.int64), np.cumsum(lengths, axis=1)], axis=1)
    count = size * features if splits is None else int(splits[:, -1].sum())
    ids = list(DISTRIBUTIONS[distribution](generator, (batches, count), rows))
    return Problem(optimizer, rows, ids, splits, generator.standard_normal(shape, np.float32))
