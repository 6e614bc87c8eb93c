"""The job: one YAML file, validated, with `--set a.b=c` overrides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from evaluation.config import EvaluationConfig
from foundation.config import Config, validated
from foundation.errors import UserError, nearest
from foundation.precision import Precision
from inputs.config import InputsConfig
from postranking.config import PostRankingConfig
from ranking.config import RankingConfig
from retrieval.config import IndexConfig, RetrievalConfig
from serving.config import FunnelConfig

StrategyName = Literal["single", "mirrored", "multi_worker", "horovod", "parameter_server", "tpu"]


class TrainingConfig(Config):
    """How the loop runs.

    strategy: where it runs (docs/strategies.md); workers: on how many devices; servers: processes that hold the
    variables under "parameter_server"; plan: a file that `headrace plan --json` wrote, how tables are spread over the
    devices (default: by thresholds); wire: in what precision vectors and gradients travel between them; error_feedback:
    whether a copied row's next gradient gets what rounding took from the last (embeddings/wire.py).
    steps_per_call: training steps in one `tf.function` call. checkpoint_every: steps between checkpoints.
    keep_checkpoints: how many of the last ones stay on disk (the best one always does); keep_every: beside them those
    whose step is a multiple of it (0: none). incremental: so many checkpoints after a full one hold only the rows of
    tables that changed since (0: all are full). fallback: whether a damaged checkpoint is set aside and the one before
    it gone on from; otherwise it is an error. warm_start: another job's run directory or a checkpoint in one: tables
    begin with its rows, by raw id, dense weights with its, by name and shape.

    restarts: how often in all the supervisor starts the ranks again after one failed (default: 3 where ranks are
    supervised; one process alone is supervised only if this is given); min_workers: with how few of the workers it goes
    on when one does not come back (default: all of them). on_nonfinite: what a loss that is not finite does, "stop" or
    "skip": roll back to the last checkpoint and leave that batch out; most_skipped: so many batches of a training at
    most. See docs/surviving.md.
    """

    strategy: StrategyName = "single"
    workers: int = Field(1, ge=1)
    servers: int = Field(1, ge=1)
    plan: str | None = None
    wire: Precision = "float32"
    error_feedback: bool = False
    steps_per_call: int = Field(20, ge=1)
    checkpoint_every: int = Field(200, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    keep_every: int = Field(0, ge=0)
    incremental: int = Field(0, ge=0)
    fallback: bool = False
    warm_start: str | None = None
    restarts: int | None = Field(None, ge=0)
    min_workers: int | None = Field(None, ge=1)
    on_nonfinite: Literal["stop", "skip"] = "stop"
    most_skipped: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _fewer_workers_can_be(self) -> TrainingConfig:
        if self.min_workers is None or self.min_workers == self.workers:
            return self
        if self.min_workers > self.workers:
            raise ValueError(
                f"min_workers: found {self.min_workers}, more than training.workers, which is {self.workers}; give as "
                "many or fewer"
            )
        if self.plan is not None:
            raise ValueError(
                f"min_workers: found {self.min_workers} of {self.workers} workers and a plan, which is for one number "
                "of them; leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _something_is_rounded(self) -> TrainingConfig:
        if self.error_feedback and self.wire == "float32":
            raise ValueError("error_feedback: nothing is lost in float32; set wire to bfloat16 or float16")
        if self.incremental and self.strategy in ("parameter_server", "tpu"):
            raise ValueError(f"incremental: not built for strategy '{self.strategy}'; leave it out")
        return self


class Job(Config):
    """Everything `headrace run` needs to know. `run_directory` may hold {name} and {data} (the input path's name)."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(0, ge=0, lt=2**31)
    run_directory: str = "runs/{name}"
    inputs: InputsConfig
    retrieval: RetrievalConfig = RetrievalConfig()
    index: IndexConfig = IndexConfig()
    ranking: RankingConfig = RankingConfig()
    postranking: PostRankingConfig = PostRankingConfig()
    funnel: FunnelConfig = FunnelConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _histories_fit(self) -> Job:
        longest, found = self.retrieval.longest_history, self.inputs.history_length
        if longest is not None and longest < found:
            raise ValueError(
                f"retrieval.{self.retrieval.encoder}.length: found {longest}, fewer than inputs.history_length, which "
                f"is {found}; make them equal"
            )
        return self

    @model_validator(mode="after")
    def _steps_wait_for_each_other(self) -> Job:
        if self.training.strategy == "parameter_server":
            for key in self.retrieval.remembers:
                raise ValueError(
                    f"retrieval.{key}: goes from step to step, and under strategy 'parameter_server' steps do not wait "
                    "for each other; leave it out, or choose another strategy"
                )
        return self

    def run_path(self) -> Path:
        """The run directory with its placeholders filled in."""
        data = Path(self.inputs.path).resolve().stem if self.inputs.path else self.inputs.format
        try:
            return Path(self.run_directory.format(name=self.name, data=data))
        except (LookupError, AttributeError, ValueError) as error:
            raise UserError(
                f"run_directory: {self.run_directory!r} has an unknown placeholder ({error}).",
                "It may hold {name} and {data}.",
            ) from error

    def document(self) -> dict[str, Any]:
        """The whole job with its defaults, as plain JSON types."""
        return self.model_dump(mode="json")


_OF_NO_NUMBER = (
    "workers",
    "servers",
    "plan",
    "restarts",
    "min_workers",
    "on_nonfinite",
    "most_skipped",
    "keep_checkpoints",
    "keep_every",
    "incremental",
    "fallback",
)


def what_decides(document: Mapping[str, Any]) -> dict[str, Any]:
    """A job's document without what leaves its numbers the same (law 1): where it runs, what it survives, and which
    checkpoints it keeps. Asynchronous training does not. (Which batches were skipped, its checkpoints hold.)"""
    training = dict(document.get("training", {}))
    for key in _OF_NO_NUMBER:
        training.pop(key, None)
    if training.get("warm_start") is None:
        training.pop("warm_start", None)
    if training.get("strategy") != "parameter_server":
        training.pop("strategy", None)
    return {**document, "training": training}


def load_job(path: str | Path, overrides: Iterable[str] = ()) -> Job:
    """Reads and validates a job file; `overrides` are "a.b=c" with c in YAML.

    Raises:
      UserError: the file is missing or is not YAML, or a key is misspelt, missing or ill-typed (all are listed).
    """
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        siblings = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = nearest(str(path), siblings) if siblings else "a job is one YAML file, such as configs/demo.yaml"
        raise UserError(f"{path}: no such job file.", hint[0].upper() + hint[1:]) from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: this is not a text file.", "Give a job's YAML file, such as configs/demo.yaml."
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).", "Choose a file you may read.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: a job is a mapping of keys to values; found {type(document).__name__}.")
    for override in overrides:
        overridden(document, override)
    return validated(Job, document, str(path), "job")


def overridden(document: dict[str, Any], override: str) -> None:
    """Sets the key that an override "a.b=c" names."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: wanted KEY=VALUE, such as --set retrieval.epochs=2.")
    *parents, last = key.split(".")
    place: Any = document
    for part in parents:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {override}: {part!r} holds a value, not keys.")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: {value!r} is not valid YAML: {error}") from error


def digest(*parts: Any) -> str:
    """A short hash of plain JSON values: what a stage was made from."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
