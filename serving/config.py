"""The `funnel` part of a job file."""

from __future__ import annotations

from pydantic import Field, model_validator

from foundation.config import Config


class FunnelConfig(Config):
    """How many items each stage passes on.

    retrieve: candidates asked of the index. rank: best-scored ones that post-ranking chooses from. retrieval_weight: of
    the retrieval similarity in an item's score, log(value) + weight * similarity. The ranker tells what an item is
    worth once it is looked at, as the log's shown items were; the two-tower's similarity is the log-probability (up to
    a constant) that this user comes to it at all. At 1 the score is the log of their product; at 0 the ranker decides
    alone.
    """

    retrieve: int = Field(1_000, ge=1)
    rank: int = Field(200, ge=1)
    retrieval_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _narrows(self) -> FunnelConfig:
        if self.rank > self.retrieve:
            raise ValueError(f"rank ({self.rank}) must not exceed retrieve ({self.retrieve}): a funnel narrows")
        return self
