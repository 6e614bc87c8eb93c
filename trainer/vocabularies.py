"""What the ids of a run's tables stand for in its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml

from foundation.errors import UserError, damaged
from inputs.features import FeatureSpace
from inputs.raw_ids import vocabularies


@dataclass(frozen=True)
class RunVocabularies:
    """values: by table, the raw values of its ids 1, 2, .... hashed: by table whose ids are hashes of raw values
    instead, how many ids there are."""

    values: Mapping[str, pa.Array]
    hashed: Mapping[str, int]


def vocabularies_of(run: Path) -> RunVocabularies:
    """Those of a run directory.

    Raises:
      UserError: its feature space or job is missing or damaged.
    """
    config = run / "config.yaml"
    if not config.is_file():
        raise UserError(f"{run}: not a run directory: it has no config.yaml.", "Name one that `headrace run` made.")
    with damaged(config, "Name another run directory."):
        hashed = dict(yaml.safe_load(config.read_text())["inputs"].get("hashed") or {})
    return of_space(FeatureSpace.load(run / "space"), hashed)


def of_space(space: FeatureSpace, hashed: Mapping[str, int]) -> RunVocabularies:
    """Those of a feature space. hashed: the job's `inputs.hashed`."""
    by_hash = {table: hashed[name] for table, name, _, _ in space.raw_columns() if name in hashed}
    return RunVocabularies(vocabularies(space, hashed), by_hash)
