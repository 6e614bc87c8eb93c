"""What is to be laid over the ranks: tables, how they are looked up, and the dense layers beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from embeddings.planner.zipf import BoundedZipf, zipf
from foundation.precision import Precision

BYTES_PER_FLOAT: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

# bytes of a row's slot variables, by the name of the optimizer (embeddings/optimizers.py), from the width of the row
SLOT_BYTES: Mapping[str, Callable[[int], int]] = {
    "SGD": lambda dim: 0,
    "RowWiseAdagrad": lambda dim: 4,
    "Adagrad": lambda dim: 4 * dim,
    "Adam": lambda dim: 8 * dim,
    "FTRL": lambda dim: 8 * dim,
}


@dataclass(frozen=True)
class TableSpec:
    """One table as the planner sees it.

    rows: of a dynamic table, as many as are expected. features: how many look it up; pooling_factor: ids that one of
    them has in an example, on average; pooling_factors: of each of them, where they differ: see `looked_up_by`.
    zipf_alpha: the k-th most frequent id comes with probability ~ k^-zipf_alpha; 0:
    all alike. optimizer: a name in `SLOT_BYTES`.
    """

    name: str
    rows: int
    dim: int
    pooling_factor: float = 1.0
    zipf_alpha: float = 0.0
    optimizer: str = "RowWiseAdagrad"
    features: int = 1
    precision: Precision = "float32"
    pooling_factors: tuple[float, ...] = ()

    def looked_up_by(self, pooling_factors: Sequence[float]) -> TableSpec:
        """The same table, looked up by features with these."""
        mean = sum(pooling_factors) / len(pooling_factors)
        return replace(self, pooling_factor=mean, features=len(pooling_factors), pooling_factors=tuple(pooling_factors))

    @property
    def factors(self) -> tuple[float, ...]:
        """The pooling factor of each feature."""
        return self.pooling_factors or (self.pooling_factor,) * self.features

    @property
    def law(self) -> BoundedZipf:
        """Which ids come how often."""
        return zipf(self.rows, self.zipf_alpha)

    @property
    def ids_per_example(self) -> float:
        return self.features * self.pooling_factor

    def row_bytes(self, columns: int) -> int:
        """Of so many columns of a row, as it is stored."""
        return columns * BYTES_PER_FLOAT[self.precision]

    def slot_bytes(self, columns: int) -> int:
        """Of the slot variables of so many columns of a row."""
        return SLOT_BYTES[self.optimizer](columns)

    def bytes_of(self, rows: float, columns: int | None = None) -> int:
        """Of so many rows and their slot variables."""
        width = self.dim if columns is None else columns
        return round(rows * (self.row_bytes(width) + self.slot_bytes(width)))


@dataclass(frozen=True)
class Dense:
    """The dense layers of a model. flops: floating-point operations of a training step for one example, forward and
    backward. parameters, layers: how many."""

    flops: float = 0.0
    parameters: int = 0
    layers: int = 0

    @classmethod
    def stack(cls, widths: Sequence[int]) -> Dense:
        """Layers one upon the other; widths: the input's first. A training step multiplies three times as much as a
        forward pass does: for outputs, for gradients of inputs, and of weights."""
        products = sum(before * after for before, after in itertools.pairwise(widths))
        return cls(6.0 * products, products + sum(widths[1:]), len(widths) - 1)

    def __add__(self, other: Dense) -> Dense:
        return Dense(self.flops + other.flops, self.parameters + other.parameters, self.layers + other.layers)


@dataclass(frozen=True)
class Workload:
    """The tables of a model and its dense layers. batch_size: examples in the global batch."""

    tables: tuple[TableSpec, ...]
    batch_size: int
    dense: Dense = Dense()

    @property
    def activation_width(self) -> int:
        """Floats in the embeddings of one example."""
        return sum(table.features * table.dim for table in self.tables)
