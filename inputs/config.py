"""The `inputs` part of a job file: where the log is, how to read it, how to split it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from foundation.config import Config
from inputs.schema import ITEM, LIST, TIME, USER, LabelKind, Positive, refuse_repeated
from inputs.simulate.config import SimulateConfig

LogFormat = Literal["simulated", "movielens", "recbole", "columns"]
BadRowPolicy = Literal["error", "drop", "clip"]


class ColumnsConfig(Config):
    """Which column of a CSV or Parquet log means what (format "columns").

    user, item, time: columns of the events. list: the request a row was shown in; without it a user's rows less than
    an hour apart make one list. labels, context: column -> kind. item_file, item_id, item_features and user_file,
    user_id, user_features: optional files of item and user properties beside the events, their id column and the kinds
    of the columns to keep. time_unit: of times that are numbers.
    """

    user: str
    item: str
    time: str
    list: str | None = None
    labels: dict[str, LabelKind] = {}
    context: dict[str, Literal["category", "number", "logged"]] = {}
    user_file: str | None = None
    user_id: str = "user_id"
    user_features: dict[str, Literal["category", "categories", "number"]] = {}
    item_file: str | None = None
    item_id: str = "item_id"
    item_features: dict[str, Literal["category", "categories", "number", "time", "text"]] = {}
    time_unit: Literal["s", "ms", "us"] = "s"
    delimiter: str = Field(",", min_length=1, max_length=1)

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, delimiter: str) -> str:
        if not delimiter.isascii() or delimiter in '"\r\n':
            raise ValueError("must be an ASCII character other than a quote or a line's end")
        return delimiter

    @model_validator(mode="after")
    def _distinct_names(self) -> ColumnsConfig:
        refuse_repeated("context and labels", [*self.context, *self.labels], taken=(USER, ITEM, TIME, LIST))
        refuse_repeated("user_features", list(self.user_features), taken=("id", USER, ITEM, self.user_id))
        refuse_repeated("item_features", list(self.item_features), taken=("id", USER, ITEM, self.item_id))
        return self


class SplitConfig(Config):
    """Shares of the events, by time, of the validation and of the test period; training has the rest.

    validation 0: nothing is held back to choose by, so every epoch is trained and the last is kept: for a job whose
    settings, epochs among them, were chosen before on a validation period.
    """

    validation: float = Field(0.1, ge=0, lt=0.5)
    test: float = Field(0.1, gt=0, lt=0.5)


class InputsConfig(Config):
    """format: what the log is. path: the log; for "simulated" a world written before (without it, one is made).

    positive: the events that count as interest (default: the log's own: a click, a rating of 4 or more, any event).
    on_bad_row: "error" stops at the first; "drop" leaves bad rows out; "clip" brings infinite numbers to the smallest
    or largest finite one of the whole log and drops what cannot be mended. All are counted. history_length: items of a
    user's history that models see. min_item_events: items seen less often in training have no id of their own (they
    share the unknown one). hashed: features whose values are hashed to so many buckets, in place of a vocabulary.
    """

    format: LogFormat
    path: str | None = None
    columns: ColumnsConfig | None = None
    positive: Positive | None = None
    split: SplitConfig = SplitConfig()
    on_bad_row: BadRowPolicy = "error"
    history_length: int = Field(50, ge=1)
    min_item_events: int = Field(1, ge=1)
    hashed: dict[str, int] = {}
    simulate: SimulateConfig = SimulateConfig()

    @model_validator(mode="after")
    def _consistent(self) -> InputsConfig:
        if self.format != "simulated" and self.path is None:
            raise ValueError(f"format '{self.format}' needs inputs.path, the log's file or folder")
        if (self.format == "columns") != (self.columns is not None):
            raise ValueError("inputs.columns goes with format 'columns', and that format needs it")
        for feature, buckets in self.hashed.items():
            if buckets < 1:
                raise ValueError(f"inputs.hashed.{feature} must be at least 1 bucket")
        return self
