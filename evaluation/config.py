"""The `evaluation` part of a job file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from foundation.config import Config

Cutoff = Annotated[int, Field(ge=1)]


class EvaluationConfig(Config):
    """How a run is judged.

    cutoffs: the k of recall@k and its kin, ascending; the first is the main one.
    protocol: "rolling" asks at the moment of each test positive, with the history up to then; "at_cutoff" asks once per
      user at the split time for everything the user will like afterwards.
    max_queries: judged queries; a seeded sample when there are more.
    bootstrap_samples, confidence: of the intervals (cluster bootstrap over users).
    recent_days: the window of the recent-popularity baseline.
    item_knn_neighbours: neighbours kept per item by the ItemKNN baseline.
    """

    cutoffs: tuple[Cutoff, ...] = (20, 100)
    protocol: Literal["rolling", "at_cutoff"] = "rolling"
    max_queries: int = Field(4000, ge=1)
    bootstrap_samples: int = Field(1000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    recent_days: float = Field(7, gt=0, allow_inf_nan=False)
    item_knn_neighbours: int = Field(100, ge=1)

    @property
    def main_metric(self) -> str:
        """What models are chosen and compared by."""
        return f"ndcg@{self.cutoffs[0]}"

    @field_validator("cutoffs")
    @classmethod
    def _ascending(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if not cutoffs:
            raise ValueError("at least one cutoff is needed, for example [20, 100]")
        if list(cutoffs) != sorted(set(cutoffs)):
            raise ValueError(f"cutoffs must ascend without repeats, found {list(cutoffs)}")
        return cutoffs
