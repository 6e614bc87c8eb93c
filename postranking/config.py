"""The `postranking` part of a job file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from foundation.config import Config


class PostRankingConfig(Config):
    """slate_size: items on a slate. diversity: 0 orders by value alone, 1 looks only for what differs most from the
    items already chosen (1 - lambda of MMR). freshness_weight: what the freshest item gains, on the scale where the
    candidates' values have median 0 and spread 1; 0 is no boost. freshness_half_life_days: the age at which half of
    that is left. caps: at most so many items of a slate may share a value of an item's category feature, by its name.
    exclude_seen: leave out what the user has seen. The block list is always obeyed.
    """

    slate_size: int = Field(12, ge=1)
    diversity: float = Field(0.2, ge=0, le=1)
    freshness_weight: float = Field(0.1, ge=0)
    freshness_half_life_days: float = Field(3.0, gt=0)
    caps: dict[str, Annotated[int, Field(ge=1)]] = {}
    exclude_seen: bool = True
