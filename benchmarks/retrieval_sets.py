"""The logs that retrieval is judged on: three public ones, if they are on this machine, and a simulated world."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from inputs.config import InputsConfig
from inputs.readers import import_log
from inputs.simulate.world import simulate

_DATA = "HEADRACE_DATA"  # the environment variable that says where the public logs lie


@dataclass(frozen=True)
class LogSet:
    """folder: under the folder of public logs, None: simulated. file: in it, if that is the log. inputs: of a job over
    it, without the path. every_event: settings by which each event is a positive, as most papers have it."""

    name: str
    inputs: dict[str, Any]
    folder: str | None = None
    file: str = ""
    every_event: dict[str, Any] = field(default_factory=dict)

    def config(self) -> InputsConfig:
        """What a job reads it by.

        Raises:
          UserError: it is not on this machine.
        """
        if self.folder is None:
            return InputsConfig(**self.inputs)
        path = data_folder() / self.folder / self.file
        if not path.exists():
            raise UserError(
                f"{self.name} was left out: {path} is not there; {_DATA} names the folder of the public logs"
            )
        return InputsConfig(**self.inputs, path=str(path))

    def write(self, out: Path) -> Path:
        """The log as a dataset at `out`, which any job opens by its path.

        Raises:
          UserError: see `config`.
        """
        config = self.config()
        if config.format == "simulated":
            simulate(config.simulate, out)
        else:
            import_log(config, out)
        return out


def data_folder() -> Path:
    """Where public logs are looked for."""
    return Path(os.environ.get(_DATA, Path(__file__).parents[2] / "shared" / "data"))


def _grocery() -> dict[str, Any]:
    """The lists of complements and substitutes in the items' file are left out: they were drawn from purchases of the
    whole period, the test's included."""
    columns = {
        "user": "user_id",
        "item": "item_id",
        "time": "time",
        "delimiter": "\t",
        "item_file": str(data_folder() / "amazon-grocery-rechorus" / "item_meta.csv"),
        "item_features": {"i_category": "category"},
    }
    return {"format": "columns", "columns": columns}


def log_sets() -> dict[str, LogSet]:
    """By name."""
    every_rating = {"inputs.positive": {"label": "rating", "at_least": 0}}
    sets = (
        LogSet("ml-100k", {"format": "movielens"}, "ml-100k", every_event=every_rating),
        LogSet("ml-latest-small", {"format": "movielens"}, "ml-latest-small", every_event=every_rating),
        LogSet("amazon-grocery", _grocery(), "amazon-grocery-rechorus", "train.csv"),
        world(users=6_000, items=5_000, days=28, impressions=600_000),
    )
    return {log.name: log for log in sets}


def world(**simulate: int) -> LogSet:
    """A simulated world."""
    return LogSet("world", {"format": "simulated", "simulate": simulate})
