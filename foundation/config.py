"""The base of every part of a job file: unknown keys are refused, values never change after validation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A strict, frozen pydantic model. Each room's options derive from it; `trainer.job.Job` joins them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
