"""The encoders' parts of `retrieval` in a job file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from foundation.config import Config

EncoderName = Literal["bag", "gru", "attention", "multi_interest"]


class GruConfig(Config):
    """units: of the state. dropout: share of the last state's elements dropped in training."""

    units: int = Field(64, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class AttentionConfig(Config):
    """blocks, heads: of self-attention. units: width of all of it, a multiple of heads; None: the tables' width.
    length: watched items that have a position, the latest; older ones are not read. dropout: share dropped in training
    of the inputs, and of what each attention and each feed-forward layer adds."""

    blocks: int = Field(2, ge=1)
    heads: int = Field(1, ge=1)
    units: int | None = Field(None, ge=1)
    length: int = Field(50, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)


class MultiInterestConfig(Config):
    """interests: vectors of a query. units: width of an interest; None: the tables' width. attention_units: of the
    hidden layer that decides which interest a watched item belongs to. length: as in `AttentionConfig`."""

    interests: int = Field(4, ge=1)
    units: int | None = Field(None, ge=1)
    attention_units: int = Field(128, ge=1)
    length: int = Field(50, ge=1)
