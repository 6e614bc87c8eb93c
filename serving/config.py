"""The `funnel` part of a job file."""

from __future__ import annotations

from pydantic import Field, model_validator

from foundation.config import Config


class FunnelConfig(Config):
    """How many items each stage passes on.

    retrieve: candidates asked of the index. rank: best-valued ones that post-ranking chooses from.
    """

    retrieve: int = Field(1_000, ge=1)
    rank: int = Field(200, ge=1)

    @model_validator(mode="after")
    def _narrows(self) -> FunnelConfig:
        if self.rank > self.retrieve:
            raise ValueError(f"rank ({self.rank}) must not exceed retrieve ({self.retrieve}): a funnel narrows")
        return self
