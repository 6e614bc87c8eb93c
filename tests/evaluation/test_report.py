"""The report is one well-formed, self-contained page that says what the data says, whatever the data holds."""

import dataclasses
import itertools
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.report import Report, render
from evaluation.report.markup import number, with_interval
from evaluation.report.svg import dots_with_intervals, funnel, line

SCRIPT = "<script>alert(1)</script>"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that tags balance; keeps the start tags, ids and words."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def interval(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def full_report(word=""):
    """A report with every section; `word` is put into every text that comes from the data."""
    two_tower, baseline = f"two-tower{word}", f"popularity{word}"
    metrics = {f"ndcg@20{word}": interval(0.07041, 0.06312, 0.07779), "mrr": interval(math.nan, None, None)}
    return Report(
        title=f"A run{word}",
        main_metric=f"ndcg@20{word}",
        facts=[(f"Users{word}", f"20,000{word}")],
        metrics={
            "retrieval": {two_tower: metrics, baseline: {"coverage": interval(0.5, 0.4, 0.6)}},
            "ranking": {f"ranker{word}": {"auc": interval(0.7, 0.69, 0.71)}},
            "funnel": {f"funnel{word}": {"satisfaction": interval(0.4, 0.3, 0.5)}},
            f"cold start{word}": {two_tower: metrics},
        },
        leads={baseline: interval(0.01, 0.005, 0.015)},
        curves=[{"stage": f"retrieval{word}", "step": s, "metric": f"loss{word}", "value": 9 - s} for s in range(3)],
        funnel=[
            {"stage": f"catalogue{word}", "items": 50_000, "milliseconds": None},
            {"stage": f"index{word}", "items": 1_000, "milliseconds": 1.5},
        ],
        slates=[
            {
                "user": f"7{word}",
                "history": [f"Bread{word}"],
                "items": [{"title": f"Knots{word}", "detail": word, "scores": {f"click{word}": 0.2}, "reason": word}],
            }
        ],
        notes=[f"Seen items are masked.{word}"],
    )


def test_page_is_well_formed_and_says_the_numbers():
    page = Page(render(full_report()))
    assert "0.0704 [0.0631, 0.0778]" in page.words
    assert "In ndcg@20 the two-tower model is ahead of popularity." in page.words
    assert "50,000 items" in page.words
    assert "1,000 items · 1.50 ms" in page.words
    for word in ("nan", "None", "inf"):
        assert not re.search(rf"\b{word}\b", page.words)


def test_page_loads_nothing():
    page = render(full_report())
    parsed = Page(page)
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name in ("src", "href", "xlink:href")]


@pytest.mark.parametrize("word", [SCRIPT, '" onload="alert(1)', "</style></title>&lt;", "\0\ud800"])
def test_words_from_the_data_stay_words(word):
    page = render(full_report(word))
    page.encode("utf-8")
    hostile, plain = Page(page), Page(render(full_report()))
    assert SCRIPT not in page
    # hostile words add empty-or-not details, never other elements or attributes
    allowed = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in hostile.tags} <= allowed
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    if word == SCRIPT:
        assert f"A run{SCRIPT}" in hostile.words


@pytest.mark.parametrize(
    ("emptied", "identifiers"),
    [
        ({"metrics": {}}, {"retrieval", "ranking", "funnel", "stage-0"}),
        ({"leads": {}}, {"leads"}),
        ({"curves": []}, {"curves"}),
        ({"funnel": []}, {"funnel-size"}),
        ({"slates": []}, {"slates"}),
        ({"notes": []}, {"notes"}),
    ],
)
def test_a_section_without_data_is_left_out(emptied, identifiers):
    def sections(report):
        return {attributes["aria-labelledby"] for tag, attributes in Page(render(report)).tags if tag == "section"}

    everything = sections(full_report())
    assert identifiers <= everything
    assert sections(dataclasses.replace(full_report(), **emptied)) == everything - identifiers


def test_a_report_of_nothing_is_a_page():
    page = Page(render(Report(title="Nothing yet")))
    assert not {"section", "table", "svg", "dl"} & {tag for tag, _ in page.tags}


def test_facts_stand_in_the_headline():
    assert "20,000" in Page(render(full_report())).words
    assert "dl" not in [tag for tag, _ in Page(render(dataclasses.replace(full_report(), facts=[]))).tags]


@pytest.mark.parametrize(
    ("lead", "words"),
    [
        (interval(0.02, 0.01, 0.03), "Ahead of popularity: 0.0200 [0.0100, 0.0300]"),
        (interval(-0.02, -0.03, -0.01), "Behind popularity: -0.0200 [-0.0300, -0.0100]"),
        (interval(0.02, -0.01, 0.05), "No difference shown from popularity: 0.0200 [-0.0100, 0.0500]"),
        (interval(0.02, 0.0, 0.05), "No difference shown from popularity: 0.0200 [0.0000, 0.0500]"),
        (interval(0.02, math.nan, None), "Not measured against popularity: 0.0200"),
    ],
)
def test_a_lead_is_told_in_words(lead, words):
    assert words in Page(render(Report(title="Leads", leads={"popularity": lead}))).words


def test_tables_and_charts_are_accessible():
    page = Page(render(full_report()))
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 3
    for chart in charts:
        assert chart["role"] == "img"
        assert {chart["aria-labelledby"], chart["aria-describedby"]} <= set(page.ids)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.07041, "0.0704"), (0, "0.0000"), (-0.0, "0.0000"), (2e-5, "2.0e-05"), (143.21, "143.2"), (50_000, "50,000")]
    + [(missing, "–") for missing in (None, math.nan, math.inf)],  # noqa: RUF001 (the dash is what is shown)
)
def test_numbers(value, words):
    assert number(value) == words


def test_an_interval_without_its_ends_is_its_value():
    assert with_interval(interval(0.5, math.nan, 0.6)) == "0.5000"
    assert with_interval({}) == number(None)


anything = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, 1e308, -1e308, 5e-324, math.nan, math.inf]))
series = st.one_of(
    st.lists(st.tuples(anything, anything), max_size=8),
    st.tuples(st.floats(), st.integers(1, 6)).map(lambda pair: [(step, pair[0]) for step in range(pair[1])]),
    st.lists(st.floats(1e-9, 1e9), max_size=8).map(lambda values: list(enumerate(values))),
)


def coordinates_inside(chart):
    """Every coordinate of the chart is finite and inside its view box; returns the parsed chart."""
    page = Page(chart)
    width, height = (float(size) for size in page.tags[0][1]["viewbox"].split()[2:])
    for _, attributes in page.tags[1:]:
        corners = [corner.split(",") for corner in attributes.get("points", "").split()]
        across = [attributes[name] for name in ("x", "x1", "x2", "cx") if name in attributes]
        down = [attributes[name] for name in ("y", "y1", "y2", "cy") if name in attributes]
        for x in across + [corner[0] for corner in corners]:
            assert -0.01 <= float(x) <= width + 0.01
        for y in down + [corner[1] for corner in corners]:
            assert -0.01 <= float(y) <= height + 0.01
    return page


@settings(deadline=None, max_examples=200)
@given(series)
def test_a_curve_stays_inside_its_chart(points):
    chart = line(points, identifier="c", title="loss")
    shown = [p for p in points if None not in p and all(map(math.isfinite, p))]
    assert (chart is None) == (not shown)
    if chart is not None:
        coordinates_inside(chart)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.text(max_size=40), st.tuples(anything, anything, anything), st.booleans()), max_size=5))
def test_intervals_stay_inside_their_chart(rows):
    chart = dots_with_intervals([(n, interval(*ends), own) for n, ends, own in rows], identifier="c", title="t")
    measured = [ends[0] for _, ends, _ in rows if ends[0] is not None and math.isfinite(ends[0])]
    assert (chart is None) == (not measured)
    if chart is not None:
        assert [tag for tag, _ in coordinates_inside(chart).tags].count("circle") == len(measured)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(anything, anything), min_size=1, max_size=6))
def test_funnel_bars_narrow_with_the_counts(stages):
    chart = funnel([{"stage": "s", "items": n, "milliseconds": ms} for n, ms in stages], identifier="c", title="t")
    bars = [float(attributes["width"]) for tag, attributes in coordinates_inside(chart).tags if tag == "rect"]
    counts = [n if n is not None and math.isfinite(n) else 0.0 for n, _ in stages]
    for (n, bar), (m, other) in itertools.pairwise(zip(counts, bars, strict=True)):
        assert (n < m) <= (bar <= other)


def test_a_curve_over_decades_has_powers_of_ten_as_ticks():
    words = Page(line([(0, 1.0), (1, 0.1), (2, 0.001)], identifier="c", title="loss")).words
    assert "logarithmic axis" in words
    assert all(tick in words for tick in ("0.001", "0.01", "0.1"))


def test_a_missing_value_breaks_the_line():
    chart = line([(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, 2.0)], identifier="c", title="loss")
    assert [tag for tag, _ in Page(chart).tags].count("polyline") == 2
