"""The dense numpy reference: gather, combine and each optimizer, by the book."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

MASK = (1 << 64) - 1


def _splitmix64(counter: int) -> int:
    mixed = (counter + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def initial_value(key: int, row: int, column: int, scale: float) -> np.float32:
    """One element, in Python's own integers."""
    bits = _splitmix64((_splitmix64((key + row) & MASK) + column) & MASK)
    return np.float32((np.float32(bits >> 40) * np.float32(2.0**-23) - np.float32(1)) * np.float32(scale))


def combined(table: np.ndarray, rows: Sequence, weights: Sequence | None, combiner: str) -> tuple[np.ndarray, list]:
    """(outputs [B, dim], per row the coefficient of each of its ids)."""
    outputs, coefficients = np.zeros((len(rows), table.shape[1])), []
    for place, ids in enumerate(rows):
        w = np.ones(len(ids)) if weights is None else np.asarray(weights[place], float)
        norm = {"sum": 1.0, "mean": w.sum(), "sqrtn": np.sqrt((w**2).sum())}[combiner]
        c = w / norm if norm else np.zeros(len(ids))
        coefficients.append(c)
        for identifier, share in zip(ids, c, strict=True):
            outputs[place] += share * table[identifier]
    return outputs, coefficients


class DenseTable:
    """A table whose gradient is dense, in float64; only rows that were looked up are touched."""

    def __init__(self, values: np.ndarray, kind: str, rate, clipnorm=None, clipvalue=None, **options) -> None:
        self.values, self.kind, self.rate = values.astype(float), kind, rate
        self.clipnorm, self.clipvalue, self.options = clipnorm, clipvalue, options
        wide = values.shape
        self.slots = {
            "SGD": [],
            "Adagrad": [np.full(wide, 0.1)],
            "RowWiseAdagrad": [np.full(len(values), 0.1)],
            "Adam": [np.zeros(wide), np.zeros(wide)],
            "FTRL": [np.full(wide, 0.1), np.zeros(wide)],
        }[kind]
        self.updates = 0

    @property
    def accumulator(self) -> np.ndarray:
        return self.slots[0]

    def step(self, gradient: np.ndarray, touched: np.ndarray | None = None) -> None:
        """touched: [rows] bool; all where it is not given."""
        g = gradient
        if self.clipnorm is not None:
            g = g * min(1.0, self.clipnorm / max(np.sqrt((g**2).sum()), 1e-30))
        if self.clipvalue is not None:
            g = np.clip(g, -self.clipvalue, self.clipvalue)
        rows = np.flatnonzero(np.ones(len(g), bool) if touched is None else touched)
        rate = self.rate(self.updates) if callable(self.rate) else self.rate
        self.updates += 1
        self.values[rows] *= 1 - rate * self.options.get("weight_decay", 0.0)
        self._row_steps(rows, g[rows], rate)

    def _row_steps(self, rows: np.ndarray, g: np.ndarray, rate: float) -> None:
        if self.kind == "SGD":
            self.values[rows] -= rate * g
        elif self.kind == "Adagrad":
            self.slots[0][rows] += g**2
            self.values[rows] -= rate * g / np.sqrt(self.slots[0][rows] + 1e-7)
        elif self.kind == "RowWiseAdagrad":
            self.slots[0][rows] += (g**2).mean(axis=1)
            self.values[rows] -= rate * g / np.sqrt(self.slots[0][rows] + 1e-7)[:, None]
        elif self.kind == "Adam":
            b1, b2, epsilon = (self.options.get(*d) for d in (("beta_1", 0.9), ("beta_2", 0.999), ("epsilon", 1e-7)))
            self.slots[0][rows] = b1 * self.slots[0][rows] + (1 - b1) * g
            self.slots[1][rows] = b2 * self.slots[1][rows] + (1 - b2) * g**2
            unbiased = rate * np.sqrt(1 - b2**self.updates) / (1 - b1**self.updates)
            self.values[rows] -= unbiased * self.slots[0][rows] / (np.sqrt(self.slots[1][rows]) + epsilon)
        else:
            l1, l2, beta = (self.options.get(name, 0.0) for name in ("l1", "l2", "beta"))
            n, z = self.slots
            sigma = (np.sqrt(n[rows] + g**2) - np.sqrt(n[rows])) / rate
            z[rows] += g - sigma * self.values[rows]
            n[rows] += g**2
            large = np.abs(z[rows]) > l1
            proximal = -(z[rows] - np.sign(z[rows]) * l1) / ((beta + np.sqrt(n[rows])) / rate + l2)
            self.values[rows] = np.where(large, proximal, 0.0)


@pytest.fixture(scope="session")
def reference():
    return SimpleNamespace(combined=combined, DenseTable=DenseTable, initial_value=initial_value)
