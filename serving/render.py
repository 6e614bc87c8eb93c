"""A recommendation in the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.recommendation import Recommendation

WIDTH_OF_A_PIPE = 160


def print_recommendation(answer: Recommendation) -> None:
    """Prints the slate, with what each stage did: counts, scores and milliseconds. Titles are never taken as markup."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)
    console.print(Text("a newcomer" if answer.user is None else f"user {answer.user}", style="bold"))
    if answer.history:
        console.print(Text("lately: " + "; ".join(_title(words) for words in answer.history)))
    funnel = Table("stage", "items", "ms", title="the funnel", title_justify="left")
    for stage in answer.stages:
        funnel.add_row(stage.stage, f"{stage.items:,}", f"{stage.milliseconds:.1f}")
    console.print(funnel)
    if left_out := {reason: count for reason, count in answer.left_out.items() if count}:
        console.print("left out: " + ", ".join(f"{reason} {count}" for reason, count in left_out.items()))
    names = list(answer.items[0].scores) if answer.items else []
    slate = Table("", "item", title="the slate", title_justify="left")
    slate.add_column("title", no_wrap=True, overflow="ellipsis")
    for name in names:
        slate.add_column(Text(name), justify="right")
    slate.add_column("why", no_wrap=True)
    for place, item in enumerate(answer.items, start=1):
        scores = [f"{item.scores[name]:.3f}" for name in names]
        slate.add_row(str(place), Text(str(item.item)), Text(_title(item.words)), *scores, Text(item.reason))
    console.print(slate)


def _title(words: dict[str, str]) -> str:
    """An item's first words, and its next ones in brackets."""
    values = list(words.values())
    return (values[0] + (f" ({values[1]})" if len(values) > 1 else "")) if values else "untitled"
