"""HTML and SVG elements whose text and attributes are always escaped, and numbers as a reader wants them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

DASH = "\u2013"  # an en dash
_VOID = {"meta", "br"}


class Markup(str):
    """Text that is already HTML; anything else given to `element` is escaped."""

    __slots__ = ()


def escape(text: object) -> str:
    """`text` with the characters that mean something in HTML replaced, and those no UTF-8 page may hold removed."""
    plain = str(text).replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return html.escape(plain, quote=True)


def join(*children: object) -> Markup:
    """The children one after another: Markup as it stands, None left out, anything else escaped."""
    parts = (child if isinstance(child, Markup) else escape(child) for child in children if child is not None)
    return Markup("".join(parts))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """`<tag ...>children</tag>`. An attribute's trailing underscore is dropped, inner ones become hyphens."""
    listed = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{listed}>")
    return Markup(f"<{tag}{listed}>{join(*children)}</{tag}>")


def finite(value: Any) -> float | None:
    """`value` as a float, or None where it is None, NaN or infinite."""
    if value is None:
        return None
    value = float(value) + 0.0  # negative zero becomes zero
    return value if math.isfinite(value) else None


def number(value: Any) -> str:
    """Four decimals below 10, four digits below 1,000, whole numbers above; a dash where there is no finite value.

    What four decimals would round to zero is given as a power of ten: an interval's end keeps its side of zero.
    """
    real = finite(value)
    if real is None:
        return DASH
    size = abs(real)
    if size >= 1e15 or 0 < size < 5e-5:
        return f"{real:.1e}"
    if size >= 1000:
        return f"{real:,.0f}"
    if size >= 10:
        return f"{real:.{2 if size < 100 else 1}f}"
    return f"{real:.4f}"


def count(value: Any) -> str:
    """A number of things: `50,000`; a median that is not whole keeps one decimal."""
    real = finite(value)
    if real is None:
        return DASH
    return f"{real:,.0f}" if real == round(real) else f"{real:,.1f}"


def bounds(interval: Mapping[str, Any]) -> str | None:
    """`[0.0631, 0.0778]`, or None where either end is missing."""
    low, high = finite(interval.get("low")), finite(interval.get("high"))
    return None if low is None or high is None else f"[{number(low)}, {number(high)}]"


def with_interval(interval: Mapping[str, Any]) -> str:
    """`0.0704 [0.0631, 0.0778]`; the value alone where an end is missing, a dash where the value is."""
    value, ends = number(interval.get("value")), bounds(interval)
    return value if ends is None or value == DASH else f"{value} {ends}"
