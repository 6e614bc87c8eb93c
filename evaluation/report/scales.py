"""Axes: from values to a drawing's coordinates, with round ticks on a linear or a logarithmic scale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Beyond these an axis's span or margin could over- or underflow; no chart is read there.
_LARGEST, _SMALLEST = 1e200, 1e-200
# A positive series that spans more than this factor is drawn on a logarithmic axis.
_LOGARITHMIC_SPAN = 50.0


def tame(value: float) -> float:
    """A finite value, moved into the range where its differences are finite and not denormal."""
    if abs(value) < _SMALLEST:
        return 0.0
    return max(-_LARGEST, min(_LARGEST, value))


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto the coordinates [start, end]."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = self.low, self.high, tame(value)
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """A few round values inside [low, high] with their labels; on a logarithmic axis powers of ten.

        Where fewer than three powers of ten fit, two and five times them are ticks too.
        """
        if self.logarithmic:
            return [(tick, f"{tick:g}") for tick in _logarithmic_ticks(self.low, self.high)]
        ticks = _linear_ticks(self.low, self.high)
        return list(zip(ticks, tick_labels(ticks), strict=True))


def fit(values: Iterable[float], start: float, end: float, logarithmic: bool | None = None, pad: float = 0.05) -> Scale:
    """The scale that shows all finite `values` (at least one) with a margin of `pad` of their span on both sides.

    `logarithmic` None chooses by the values: all positive and spanning more than a factor of 50.
    """
    tamed = [tame(value) for value in values]
    low, high = min(tamed), max(tamed)
    if logarithmic is None:
        logarithmic = low > 0 and math.log10(high) - math.log10(low) > math.log10(_LOGARITHMIC_SPAN)
    if logarithmic:
        factor = 10.0 ** (pad * (math.log10(high) - math.log10(low)))
        return Scale(low / factor, high * factor, start, end, logarithmic=True)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.1 * max(abs(low), abs(high)) or 1.0
    else:
        margin = pad * (high - low)
    return Scale(low - margin, high + margin, start, end)


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(part * power for part in (1, 2, 5, 10) if part * power >= rough * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [index * step for index in range(first, last + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    stride = max(1, math.ceil((last - first) / 4))
    decades = [10.0**power for power in range(first, last + 1, stride)]
    if len(decades) >= 3:
        return decades
    parts = (part * 10.0**power for power in range(first - 1, last + 1) for part in (1, 2, 5))
    return [tick for tick in parts if low <= tick <= high]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Short labels that tell evenly spaced ticks apart: `0.05`, `20k`, `1e-06`."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=0.0)
    return [_tick_label(tick, step) for tick in ticks]


def _tick_label(tick: float, step: float) -> str:
    if tick == 0:
        return "0"
    size = abs(tick)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= size < unit * 1000 and step >= unit / 100:
            return f"{tick / unit:g}{letter}"
    if size >= 1e6 or size < 1e-4 or step < 1e-6:
        return f"{tick:.6g}"
    decimals = max(0, -math.floor(math.log10(step or size)))
    return f"{tick:.{decimals}f}"
