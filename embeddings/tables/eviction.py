"""Which ids of a dynamic table lose their row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TimeToLive:
    """An id that has not come for so many training steps of its table is evicted, at most an eighth of that later."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("TimeToLive: steps is at least 1")

    def options(self) -> dict[str, Any]:
        """For `kernels().id_table`."""
        return {"eviction": "ttl", "steps_to_live": self.steps}


@dataclass(frozen=True)
class LeastRecentlyUsed:
    """At the table's capacity, the ids that have not come for longest make room."""

    def options(self) -> dict[str, Any]:
        """For `kernels().id_table`."""
        return {"eviction": "lru"}


@dataclass(frozen=True)
class LeastFrequentlyUsed:
    """At the table's capacity, the ids that came least often make room, the longest unseen first among equals."""

    def options(self) -> dict[str, Any]:
        """For `kernels().id_table`."""
        return {"eviction": "lfu"}


Eviction = TimeToLive | LeastRecentlyUsed | LeastFrequentlyUsed
