"""Quantities with their units: '80 GB', '2039 GB/s', '25 us'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_DECIMAL: Mapping[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY: Mapping[str, float] = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def _units(suffix: str, prefixes: Mapping[str, float], scale: float = 1.0) -> dict[str, float]:
    return {prefix + suffix: size * scale for prefix, size in prefixes.items()}


@dataclass(frozen=True)
class Dimension:
    """What a quantity measures. name, example: for messages. units: as `written`; also_read: others that are read."""

    name: str
    example: str
    units: Mapping[str, float]
    also_read: Mapping[str, float]

    def scale_of(self, unit: str) -> float | None:
        """What one such unit is in the base unit; None: it is no unit of this dimension."""
        return self.units.get(unit, self.also_read.get(unit))


SIZE = Dimension("size", "80 GB", _units("B", _DECIMAL), _units("B", _BINARY))
BANDWIDTH = Dimension(
    "bandwidth",
    "2039 GB/s",
    _units("B/s", _DECIMAL),
    {**_units("B/s", _BINARY), **_units("bit/s", _DECIMAL, scale=1 / 8)},
)
FLOPS = Dimension("floating-point rate", "156 TFLOP/s", _units("FLOP/s", _DECIMAL), {})
TIME = Dimension("time", "5 us", {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}, {})
ID_RATE = Dimension("rate of ids", "3 Gids/s", _units("ids/s", _DECIMAL), {})
ELEMENT_RATE = Dimension("rate of elements", "2 Gelements/s", _units("elements/s", _DECIMAL), {})
DIMENSIONS = (SIZE, BANDWIDTH, FLOPS, TIME, ID_RATE, ELEMENT_RATE)

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*")


def parse(text: object, dimension: Dimension) -> float:
    """The quantity in the base unit: bytes, bytes/s, FLOP/s, seconds or ids/s.

    Raises:
      ValueError: it is no number with a unit, or the unit is another dimension's; the message says what is wanted.
    """
    wanted = f"a {dimension.name} with its unit is wanted, such as '{dimension.example}'; found {text!r}"
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(wanted)
    number, unit = float(match[1]), match[2]
    scale = dimension.scale_of(unit)
    if scale is not None:
        return number * scale
    if not unit:
        raise ValueError(f"the unit is missing: {wanted}")
    other = next((known.name for known in DIMENSIONS if known.scale_of(unit) is not None), None)
    raise ValueError(f"'{unit}' is {f'a unit of {other}' if other else 'no unit known here'}: {wanted}")


def written(value: float, dimension: Dimension) -> str:
    """The quantity to four digits, in the largest unit that leaves 1 or more of it."""
    fitting = [(scale, unit) for unit, scale in dimension.units.items() if scale <= abs(value)]
    scale, unit = max(fitting) if fitting else min((scale, unit) for unit, scale in dimension.units.items())
    return f"{value / scale:.4g} {unit}"
