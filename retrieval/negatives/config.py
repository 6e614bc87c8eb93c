"""The `retrieval.negatives` and `retrieval.frequency` parts of a job file."""

from __future__ import annotations

from pydantic import Field, model_validator

from foundation.config import Config


class NegativesConfig(Config):
    """What a positive is set against beside the other positives of its batch.

    uniform: so many items drawn evenly from the catalogue for each global batch, popular: so many by their positives to
    the power popularity_power; all rows share them (mixed negative sampling: Yang et al., WWW 2020). queue: the
    candidates of so many batches before (cross-batch negatives: Wang et al., SIGIR 2021); queue_after: batches until
    they are used, since vectors move too fast at first. hard: so many of all these, those that score highest for the
    row's query and are none of its user's positives, are in a loss of their own too, which counts hard_weight.
    """

    uniform: int = Field(0, ge=0)
    popular: int = Field(0, ge=0)
    popularity_power: float = Field(0.75, ge=0, le=1)
    queue: int = Field(0, ge=0)
    queue_after: int = Field(100, ge=0)
    hard: int = Field(0, ge=0)
    hard_weight: float = Field(0.1, gt=0)

    @model_validator(mode="after")
    def _queue_is_there(self) -> NegativesConfig:
        if not self.queue and self.queue_after not in (0, type(self).model_fields["queue_after"].default):
            raise ValueError("queue_after: found without a queue; set negatives.queue too, or leave it out")
        return self


class FrequencyConfig(Config):
    """How `log_q: streaming` counts: so many hash functions, each into so many buckets; rate: how fast an estimate
    follows change, about one over the occurrences it remembers."""

    buckets: int = Field(1 << 18, ge=1)
    hashes: int = Field(2, ge=1)
    rate: float = Field(0.01, gt=0, le=0.5)
