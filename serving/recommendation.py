"""What the funnel answers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StageReport:
    """One stage of one answer: the items it passed on and the milliseconds it took."""

    stage: str
    items: int
    milliseconds: float


@dataclass(frozen=True)
class RecommendedItem:
    """One item of a slate. scores: of each stage, by name. words: title, topic and the like, for people."""

    item: int | str
    words: dict[str, str]
    scores: dict[str, float]
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A slate for a user (None: a newcomer), best first, with what each stage did and left out."""

    user: int | str | None
    items: list[RecommendedItem]
    stages: list[StageReport]
    left_out: dict[str, int]
    history: list[dict[str, str]]

    def document(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.document(), indent=2, ensure_ascii=False)
