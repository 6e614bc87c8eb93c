"""A recommendation in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from serving.recommendation import Recommendation


def print_recommendation(answer: Recommendation) -> None:
    """Prints the slate, with what each stage did: counts, scores and milliseconds."""
    console = Console()
    console.print(f"[bold]{'a newcomer' if answer.user is None else f'user {answer.user}'}[/]", highlight=False)
    if answer.history:
        console.print("lately: " + "; ".join(_title(words) for words in answer.history), highlight=False, markup=False)
    funnel = Table("stage", "items", "ms", title="the funnel", title_justify="left")
    for stage in answer.stages:
        funnel.add_row(stage.stage, f"{stage.items:,}", f"{stage.milliseconds:.1f}")
    console.print(funnel)
    if left_out := {reason: count for reason, count in answer.left_out.items() if count}:
        console.print("left out: " + ", ".join(f"{reason} {count}" for reason, count in left_out.items()))
    names = list(answer.items[0].scores) if answer.items else []
    slate = Table("", "item", "title", *names, "why", title="the slate", title_justify="left")
    for place, item in enumerate(answer.items, start=1):
        scores = [f"{item.scores[name]:.3f}" for name in names]
        slate.add_row(str(place), str(item.item), _title(item.words), *scores, item.reason)
    console.print(slate)


def _title(words: dict[str, str]) -> str:
    """An item's first words, and its next ones in brackets."""
    values = list(words.values())
    return (values[0] + (f" ({values[1]})" if len(values) > 1 else "")) if values else "untitled"
