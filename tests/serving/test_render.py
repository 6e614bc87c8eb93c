"""The slate in a terminal shows titles as they are."""

import json

from serving.recommendation import Recommendation, RecommendedItem, StageReport
from serving.render import print_recommendation

TITLE = "[red]x[/] [/] [link=y] \\[bold]"


def answer(**changes) -> Recommendation:
    item = RecommendedItem("[b]id[/b]", {"title": TITLE, "topic": "[i]news[/i]"}, {"value": 0.25}, "adds [blue]variety")
    fields = {
        "user": "[u]me[/u]",
        "items": [item],
        "stages": [StageReport("retrieval", 1_000, 2.5)],
        "left_out": {"seen": 4, "blocked": 0},
        "history": [{"title": TITLE}],
    }
    return Recommendation(**{**fields, **changes})


def test_nothing_of_the_log_is_taken_as_markup(capsys):
    print_recommendation(answer())
    printed = capsys.readouterr().out
    assert printed.count(TITLE) == 2
    for text in ("[b]id[/b]", "[i]news[/i]", "adds [blue]variety", "user [u]me[/u]"):
        assert text in printed


def test_counts_scores_and_milliseconds_are_shown(capsys):
    print_recommendation(answer())
    printed = capsys.readouterr().out
    for text in ("retrieval", "1,000", "2.5", "value", "0.250", "seen 4"):
        assert text in printed
    assert "blocked" not in printed


def test_an_empty_slate_of_a_newcomer_prints(capsys):
    print_recommendation(answer(user=None, items=[], history=[]))
    printed = capsys.readouterr().out
    assert "a newcomer" in printed
    assert "lately" not in printed


def test_an_item_without_words_is_untitled(capsys):
    print_recommendation(answer(items=[RecommendedItem(7, {}, {"value": 0.1}, "high value")]))
    assert "untitled" in capsys.readouterr().out


def test_the_document_is_plain_json():
    document = json.loads(answer().to_json())
    assert document == answer().document()
    assert document["items"][0]["words"]["title"] == TITLE
