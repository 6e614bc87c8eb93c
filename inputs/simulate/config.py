"""What a simulated world is made of."""

from __future__ import annotations

from datetime import date

from pydantic import Field, model_validator

from foundation.config import Config

MAX_ENTITIES = 2**30


class SimulateConfig(Config):
    """A short-video platform: its size, its traps and its logging policy.

    Size. users, items: how many there are. days: how long the log is. start: its first day (UTC). impressions: rows of
    the log, rounded down to whole lists. slate_size: items per list, one list per request. seed: the same configuration
    gives the same bytes.

    Traps. position_decay: an item at position p (0 first) is examined with probability (1 + p) ** -position_decay.
    popularity_exponent: the popularity of the r-th most popular item is proportional to r ** -popularity_exponent.
    clickbait_share: share of items with the clickbait trait. clickbait_strength: what the strongest such trait adds to
    the logit of being attracted; one and a half times as much comes off the logit of being satisfied.
    novelty_half_life_days: days in which an item's novelty halves. novelty_drop: share of an item's attraction that is
    gone with its novelty. published_share: share of items that are published during the log, evenly over its days.

    Logging policy. explore_share: share of requests answered by items drawn uniformly. trending_share: share answered
    by items drawn by popularity. The rest is the personal feed; candidates: how many items are drawn for one of its
    requests before ranking. temperature: of the softmax that ranks them (lower is greedier). policy_error: norm of the
    error in the policy's picture of a user's taste (a vector of norm 1). no_repeat: how many of the items last shown to
    a user the feed avoids.
    """

    users: int = Field(20_000, ge=1, le=MAX_ENTITIES)
    items: int = Field(50_000, ge=1, le=MAX_ENTITIES)
    days: int = Field(28, ge=1, le=3_650)
    start: date = date(2025, 1, 6)
    impressions: int = Field(2_000_000, ge=1)
    slate_size: int = Field(10, ge=1, le=127)
    seed: int = Field(0, ge=0)

    position_decay: float = Field(0.6, ge=0, le=5)
    popularity_exponent: float = Field(0.9, ge=0, le=3)
    clickbait_share: float = Field(0.2, ge=0, le=1)
    clickbait_strength: float = Field(1.0, ge=0, le=10)
    novelty_half_life_days: float = Field(4.0, ge=0.01, le=10_000)
    novelty_drop: float = Field(0.6, ge=0, lt=1)
    published_share: float = Field(0.4, ge=0, lt=1)

    explore_share: float = Field(0.1, ge=0, le=1)
    trending_share: float = Field(0.08, ge=0, le=1)
    candidates: int = Field(60, ge=4, le=10_000)
    temperature: float = Field(0.5, ge=0.01, le=1_000)
    policy_error: float = Field(0.5, ge=0, le=100)
    no_repeat: int = Field(100, ge=0, le=10_000)

    @model_validator(mode="after")
    def _consistent(self) -> SimulateConfig:
        if self.explore_share + self.trending_share > 1:
            raise ValueError("explore_share and trending_share are shares of the requests: together at most 1")
        if self.candidates < 4 * self.slate_size:
            raise ValueError(
                f"candidates ({self.candidates}) must be at least 4 times slate_size ({self.slate_size}): "
                f"{4 * self.slate_size}"
            )
        if self.impressions < self.slate_size * self.days:
            raise ValueError(
                f"impressions ({self.impressions}) must be at least one list of slate_size ({self.slate_size}) on each "
                f"of {self.days} days: {self.slate_size * self.days}"
            )
        if self.items - self.items_published_during_log < self.candidates:
            raise ValueError(
                f"items ({self.items}) must be so many that those published before the log "
                f"({self.items - self.items_published_during_log}) are at least candidates ({self.candidates})"
            )
        return self

    @property
    def items_published_during_log(self) -> int:
        return round(self.items * self.published_share)

    @property
    def lists(self) -> int:
        """Requests answered in all."""
        return self.impressions // self.slate_size
