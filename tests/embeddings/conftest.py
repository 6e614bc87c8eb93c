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
    """A table whose gradient is dense, in float64, with one of the three optimizers."""

    def __init__(self, values: np.ndarray, kind: str, rate, clipnorm=None, clipvalue=None) -> None:
        self.values, self.kind, self.rate, self.clipnorm, self.clipvalue = (
            values.astype(float),
            kind,
            rate,
            clipnorm,
            clipvalue,
        )
        self.accumulator = np.full(values.shape if kind == "Adagrad" else len(values), 0.1)
        self.updates = 0

    def step(self, gradient: np.ndarray) -> None:
        g = gradient
        if self.clipnorm is not None:
            g = g * min(1.0, self.clipnorm / max(np.sqrt((g**2).sum()), 1e-30))
        if self.clipvalue is not None:
            g = np.clip(g, -self.clipvalue, self.clipvalue)
        rate = self.rate(self.updates) if callable(self.rate) else self.rate
        if self.kind == "SGD":
            self.values -= rate * g
        elif self.kind == "Adagrad":
            self.accumulator += g**2
            self.values -= rate * g / np.sqrt(self.accumulator + 1e-7)
        else:
            self.accumulator += (g**2).mean(axis=1)
            self.values -= rate * g / np.sqrt(self.accumulator + 1e-7)[:, None]
        self.updates += 1


@pytest.fixture(scope="session")
def reference():
    return SimpleNamespace(combined=combined, DenseTable=DenseTable, initial_value=initial_value)
