"""The report's three charts as inline SVG: dots with intervals, a line, a funnel. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.markup import Markup, count, element, finite, number, with_interval
from evaluation.report.scales import Scale, fit, tame

_LABEL_CHARACTERS = 22
_CHARACTER_WIDTH = 7.2  # of the 13-unit label font, on the wide side


def dots_with_intervals(
    rows: Sequence[tuple[str, Mapping[str, Any], bool]], *, identifier: str, title: str
) -> Markup | None:
    """One row per (name, {"value", "low", "high"}, highlighted): a dot at the value, a line from low to high.

    None when no row has a finite value.
    """
    drawn = [(name, finite(interval.get("value")), interval, own) for name, interval, own in rows]
    shown = [value for _, value, _, _ in drawn if value is not None]
    if not shown:
        return None
    ends = [
        finite(interval.get(end)) for _, value, interval, _ in drawn if value is not None for end in ("low", "high")
    ]
    width, row_height, top, bottom = 460, 34, 8, 34
    left = 14 + _CHARACTER_WIDTH * min(_LABEL_CHARACTERS, max(len(name) for name, *_ in drawn))
    height = top + row_height * len(drawn) + bottom
    scale = fit([*shown, *(end for end in ends if end is not None)], left, width - 14, logarithmic=False)
    parts: list[Markup] = [*_x_axis(scale, top, height - bottom)]
    for index, (name, value, interval, own) in enumerate(drawn):
        y = top + row_height * (index + 0.5)
        parts.append(_text(left - 12, y + 4, _short(name), class_="label", text_anchor="end"))
        if value is None:
            continue
        low, high = finite(interval.get("low")), finite(interval.get("high"))
        colour = "own" if own else "other"
        marks = [element("title", f"{name}: {with_interval(interval)}")]
        if low is not None and high is not None:
            marks.append(_line(scale(low), y, scale(high), y, class_=f"interval {colour}"))
        marks.append(element("circle", cx=_xy(scale(value)), cy=_xy(y), r=5, class_=f"dot {colour}"))
        parts.append(element("g", *marks))
    description = "; ".join(f"{name} {with_interval(interval)}" for name, _, interval, _ in drawn)
    return _svg(width, height, parts, identifier=identifier, title=title, description=description)


def line(points: Sequence[tuple[Any, Any]], *, identifier: str, title: str) -> Markup | None:
    """A small chart of (step, value) points in the order given; a missing or infinite value is a gap in the line.

    The value axis is logarithmic where all values are positive and span more than a factor of 50. None when no point
    is finite.
    """
    tamed = [(finite(step), finite(value)) for step, value in points]
    kept = [(step, value) for step, value in tamed if step is not None and value is not None]
    if not kept:
        return None
    width, height, left, right, top, bottom = 340, 190, 58, 16, 12, 40
    across = fit([step for step, _ in kept], left, width - right, logarithmic=False, pad=0.02)
    up = fit([value for _, value in kept], height - bottom, top)
    parts: list[Markup] = [*_x_axis(across, top, height - bottom)]
    for tick, label in up.ticks():
        parts.append(_line(left, up(tick), width - right, up(tick), class_="grid"))
        parts.append(_text(left - 8, up(tick) + 4, label, class_="tick", text_anchor="end"))
    parts.append(_text((left + width - right) / 2, height - 4, "step", class_="tick", text_anchor="middle"))
    for run in _runs(tamed):
        corners = [(_xy(across(step)), _xy(up(value))) for step, value in run]
        if len(corners) > 1:
            parts.append(element("polyline", points=" ".join(f"{x},{y}" for x, y in corners), class_="line own"))
        x, y = corners[-1]
        parts.append(element("circle", cx=x, cy=y, r=3, class_="dot own"))
    values = [value for _, value in kept]
    description = (
        f"{len(kept)} points, from {number(values[0])} at step {count(kept[0][0])} to {number(values[-1])} at step "
        f"{count(kept[-1][0])}; lowest {number(min(values))}, highest {number(max(values))}"
        f"{'; logarithmic axis' if up.logarithmic else ''}."
    )
    return _svg(width, height, parts, identifier=identifier, title=title, description=description)


def funnel(stages: Sequence[Mapping[str, Any]], *, identifier: str, title: str) -> Markup:
    """Centred bars, one per {"stage", "items", "milliseconds"}: length by the logarithm of items, counts in words."""
    width, row_height, bar_height = 460, 52, 20
    logs = [math.log10(1 + max(0.0, tame(finite(stage.get("items")) or 0.0))) for stage in stages]
    longest = max(logs) or 1.0
    parts = []
    for index, (stage, size) in enumerate(zip(stages, logs, strict=True)):
        y = row_height * index + 16
        length = max(2.0, width * size / longest)
        parts.append(_text(0, y, _short(str(stage.get("stage", "")), 34), class_="label"))
        parts.append(_text(width, y, _in_words(stage), class_="tick", text_anchor="end"))
        parts.append(
            element(
                "rect",
                x=_xy((width - length) / 2),
                y=_xy(y + 8),
                width=_xy(length),
                height=bar_height,
                rx=3,
                class_="bar",
            )
        )
    description = "; ".join(f"{stage.get('stage', '')}: {_in_words(stage)}" for stage in stages)
    return _svg(width, row_height * len(stages), parts, identifier=identifier, title=title, description=description)


def _in_words(stage: Mapping[str, Any]) -> str:
    milliseconds = finite(stage.get("milliseconds"))
    time = "" if milliseconds is None else f" · {milliseconds:,.{2 if abs(milliseconds) < 10 else 1}f} ms"
    return f"{count(stage.get('items'))} items{time}"


def _runs(points: Sequence[tuple[float | None, float | None]]) -> list[list[tuple[float, float]]]:
    """The points split where one is missing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for step, value in points:
        if step is not None and value is not None:
            runs[-1].append((step, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _x_axis(scale: Scale, top: float, bottom: float) -> list[Markup]:
    parts = []
    for tick, label in scale.ticks():
        parts.append(_line(scale(tick), top, scale(tick), bottom, class_="grid"))
        parts.append(_text(scale(tick), bottom + 16, label, class_="tick", text_anchor="middle"))
    parts.append(_line(scale.start, bottom, scale.end, bottom, class_="axis"))
    return parts


def _svg(
    width: float, height: float, parts: Sequence[Markup], *, identifier: str, title: str, description: str
) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{identifier}-title"),
        element("desc", description, id=f"{identifier}-desc"),
        *parts,
        viewBox=f"0 0 {_xy(width)} {_xy(height)}",
        width=_xy(width),
        height=_xy(height),
        role="img",
        aria_labelledby=f"{identifier}-title",
        aria_describedby=f"{identifier}-desc",
    )


def _line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Markup:
    return element("line", x1=_xy(x1), y1=_xy(y1), x2=_xy(x2), y2=_xy(y2), class_=class_)


def _text(x: float, y: float, words: str, **attributes: object) -> Markup:
    return element("text", words, x=_xy(x), y=_xy(y), **attributes)


def _short(name: str, characters: int = _LABEL_CHARACTERS) -> str:
    return name if len(name) <= characters else name[: characters - 1] + "…"


def _xy(coordinate: float) -> str:
    return f"{coordinate:.2f}".rstrip("0").rstrip(".")
