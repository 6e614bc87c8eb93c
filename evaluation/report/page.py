"""A run's report as one HTML page: no script, no external asset, every word from the data escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from evaluation.report import svg
from evaluation.report.markup import DASH, Markup, bounds, element, finite, join, number, with_interval

Interval = Mapping[str, Any]  # {"value", "low", "high"}; None or NaN where not measured
ModelMetrics = Mapping[str, Mapping[str, Interval]]  # {model: {metric: interval}}


@dataclass(frozen=True)
class Report:
    """What a run has to tell. A section whose data is empty is left out of the page.

    facts: (label, value) pairs: data counts, split dates, bad rows.
    metrics: as metrics.json, {stage: {model: {metric: {"value", "low", "high"}}}}.
    leads: {baseline: {"value", "low", "high"}}, the two-tower's lead over each baseline in `main_metric`.
    curves: {"stage", "step", "metric", "value"} points.
    funnel: {"stage", "items", "milliseconds"}, medians per request, in the order of the stages.
    slates: {"user", "history": [title], "items": [{"title", "detail", "scores": {name: float}, "reason"}]}.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    metrics: Mapping[str, ModelMetrics] = field(default_factory=dict)
    leads: Mapping[str, Interval] = field(default_factory=dict)
    main_metric: str = "ndcg@20"
    curves: Sequence[Mapping[str, Any]] = ()
    funnel: Sequence[Mapping[str, Any]] = ()
    slates: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()


def render(report: Report) -> str:
    """The report as a complete HTML document; write it as UTF-8."""
    style = resources.files("evaluation.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", report.title),
        element("style", Markup(style)),
    )
    sections = [section(report) for section in _SECTIONS]
    body = element("body", element("main", _headline(report), *sections))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def verdict(lead: Interval) -> str:
    """`ahead` or `behind` where the whole interval lies on one side of zero, else `no difference shown`.

    `not measured` where an end of the interval is missing.
    """
    low, high = finite(lead.get("low")), finite(lead.get("high"))
    if low is None or high is None:
        return "not measured"
    if low > 0:
        return "ahead"
    return "behind" if high < 0 else "no difference shown"


def _headline(report: Report) -> Markup:
    facts = [element("div", element("dt", label), element("dd", value)) for label, value in report.facts]
    return element(
        "header",
        element("h1", report.title),
        element("p", _summary(report), class_="summary") if report.leads else None,
        element("dl", *facts, class_="facts") if facts else None,
    )


def _summary(report: Report) -> str:
    by_verdict: dict[str, list[str]] = {}
    for baseline, lead in report.leads.items():
        by_verdict.setdefault(verdict(lead), []).append(baseline)
    phrases = {
        "ahead": "ahead of",
        "behind": "behind",
        "no difference shown": "not shown to differ from",
        "not measured": "not measured against",
    }
    said = [f"{phrase} {_listed(by_verdict[word])}" for word, phrase in phrases.items() if word in by_verdict]
    return f"In {report.main_metric} the two-tower model is {'; '.join(said)}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _section(identifier: str, heading: str, *children: object) -> Markup:
    return element(
        "section", element("h2", heading, id=identifier), *children, aria_labelledby=identifier, class_="section"
    )


def _retrieval(report: Report) -> Markup | None:
    models = report.metrics.get("retrieval")
    if not models:
        return None
    rows = [(name, metrics.get(report.main_metric, {}), _own(name, report)) for name, metrics in models.items()]
    chart = svg.dots_with_intervals(
        rows, identifier="retrieval-chart", title=f"Retrieval: {report.main_metric} with its interval"
    )
    figure = None if chart is None else _figure(f"{report.main_metric}: value and interval", chart)
    caption = "Retrieval, the whole catalogue ranked: value and interval"
    return _section("retrieval", "Retrieval", element("div", _table(models, report, caption), figure, class_="beside"))


def _own(model: str, report: Report) -> bool:
    """Whether a model of the retrieval table is the one whose leads over the baselines are told."""
    return bool(report.leads) and model not in report.leads


def _leads(report: Report) -> Markup | None:
    if not report.leads:
        return None
    links = {"ahead": "of", "behind": "", "no difference shown": "from", "not measured": "against"}
    items = []
    for baseline, lead in report.leads.items():
        word = verdict(lead)
        spoken = element("strong", word.capitalize(), class_=word.replace(" ", "-"))
        link = f" {links[word]} ".replace("  ", " ")
        items.append(element("li", spoken, link, baseline, f": {with_interval(lead)}"))
    explanation = (
        f"The two-tower model's {report.main_metric} less each baseline's, on the same queries. Ahead or behind means "
        "that the whole interval lies on one side of zero."
    )
    return _section("leads", "Against the baselines", element("p", explanation), element("ul", *items, class_="leads"))


def _judged(stage: str, heading: str, caption: str) -> Callable[[Report], Markup | None]:
    def section(report: Report) -> Markup | None:
        models = report.metrics.get(stage)
        return _section(stage, heading, _table(models, report, caption)) if models else None

    return section


def _other_stages(report: Report) -> Markup | None:
    others = [stage for stage in report.metrics if stage not in ("retrieval", "ranking", "funnel")]
    parts = [
        _section(f"stage-{index}", stage.capitalize(), _table(report.metrics[stage], report, stage))
        for index, stage in enumerate(others)
        if report.metrics[stage]
    ]
    return join(*parts) if parts else None


def _table(models: ModelMetrics, report: Report, caption: str) -> Markup:
    names = list(dict.fromkeys(metric for metrics in models.values() for metric in metrics))
    names.sort(key=lambda name: name != report.main_metric)
    header = [element("th", "Model", scope="col"), *(element("th", name, scope="col") for name in names)]
    rows = [
        element(
            "tr",
            element("th", model, scope="row"),
            *(element("td", *_cell(metrics.get(name, {}))) for name in names),
            class_="own" if _own(model, report) and models is report.metrics.get("retrieval") else None,
        )
        for model, metrics in models.items()
    ]
    table = element(
        "table", element("caption", caption), element("thead", element("tr", *header)), element("tbody", *rows)
    )
    # A wide table scrolls in its own box; tabindex lets the keyboard reach it.
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _cell(interval: Interval) -> list[object]:
    value, ends = number(interval.get("value")), bounds(interval)
    if ends is None or value == DASH:
        return [value]
    return [value, " ", element("span", ends, class_="ends")]


def _curves(report: Report) -> Markup | None:
    series: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for point in report.curves:
        series.setdefault((str(point["stage"]), str(point["metric"])), []).append((point["step"], point["value"]))
    figures = []
    stages = list(dict.fromkeys(stage for stage, _ in series))
    by_stage = sorted(series.items(), key=lambda entry: stages.index(entry[0][0]))
    for index, ((stage, metric), points) in enumerate(by_stage):
        chart = svg.line(points, identifier=f"curve-{index}", title=f"{stage}: {metric} by training step")
        if chart is not None:
            figures.append(_figure(f"{stage}: {metric}", chart))
    return _section("curves", "Training", element("div", *figures, class_="charts")) if figures else None


def _funnel(report: Report) -> Markup | None:
    if not report.funnel:
        return None
    chart = svg.funnel(report.funnel, identifier="funnel-chart", title="Items left after each stage of the funnel")
    words = "Items left after each stage and the milliseconds it took, medians per request. Lengths are logarithmic."
    return _section("funnel-size", "The funnel, stage by stage", element("p", words), _figure(None, chart))


def _figure(caption: str | None, chart: Markup) -> Markup:
    return element("figure", None if caption is None else element("figcaption", caption), chart)


def _slates(report: Report) -> Markup | None:
    if not report.slates:
        return None
    slates = element("div", *(_slate(slate) for slate in report.slates), class_="slates")
    return _section("slates", "Some users' slates", slates)


def _slate(slate: Mapping[str, Any]) -> Markup:
    history = list(slate.get("history") or ())
    past = f"History, oldest first: {'; '.join(history)}." if history else "No history."
    return element(
        "article",
        element("h3", f"User {slate['user']}"),
        element("p", past, class_="history"),
        element("ol", *(_slate_item(item) for item in slate.get("items") or ())),
        class_="slate",
    )


def _slate_item(item: Mapping[str, Any]) -> Markup:
    scores = " · ".join(f"{name} {number(value)}" for name, value in (item.get("scores") or {}).items())
    detail, reason = item.get("detail"), item.get("reason")
    return element(
        "li",
        element("span", item.get("title") or DASH, class_="item"),
        join(" ", element("span", detail, class_="detail")) if detail else None,
        element("div", scores, class_="scores") if scores else None,
        element("div", reason, class_="reason") if reason else None,
    )


def _notes(report: Report) -> Markup | None:
    if not report.notes:
        return None
    return _section("notes", "Notes", element("ul", *(element("li", note) for note in report.notes)))


_SECTIONS: tuple[Callable[[Report], Markup | None], ...] = (
    _retrieval,
    _leads,
    _judged("ranking", "Ranking", "Ranking of the shown lists: value and interval"),
    _judged("funnel", "The funnel, judged", "The whole funnel's slates: value and interval"),
    _other_stages,
    _curves,
    _funnel,
    _slates,
    _notes,
)
