"""A ranker's options, and the objectives a dataset's labels suggest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from foundation.config import Config
from foundation.errors import UserError, nearest
from foundation.precision import Precision
from inputs.schema import Label

ObjectiveKind = Literal["binary", "regression", "duration"]
ListwiseLoss = Literal["approx_ndcg", "approx_mrr", "softmax", "unique_softmax"]

CLICK = "click"
RESERVED_NAMES = ("loss", "listwise")
DURATION_WORDS = ("second", "duration", "dwell", "watch_time")


class Objective(Config):
    """One thing the ranker predicts.

    kind: "binary" (a probability, cross-entropy), "regression" (the label itself, squared error) or "duration"
    (seconds, squared error of log1p seconds). weight: of its loss in the total. value_weight: of its prediction in the
    value model (`ranking.value`). given: the binary objective without whose event the label is not known (watch
    seconds given a click). initial: what the untrained model predicts, in the label's unit; the label's mean saves the
    first steps.
    """

    name: str
    label: str
    kind: ObjectiveKind
    weight: float = Field(1.0, ge=0)
    value_weight: float = 0.0
    given: str | None = None
    initial: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Objective:
        if self.name in RESERVED_NAMES:
            raise ValueError(f"an objective cannot be named {self.name!r}: that names a loss of its own")
        if self.kind == "binary" and self.initial is not None and not 0 < self.initial < 1:
            raise ValueError(f"initial of a binary objective is a probability between 0 and 1, not {self.initial}")
        if self.kind == "duration" and self.initial is not None and self.initial < 0:
            raise ValueError(f"initial of a duration is in seconds and not negative, not {self.initial}")
        return self


class Listwise(Config):
    """A TensorFlow Ranking loss over whole lists, on one objective's score and label, beside its pointwise loss.

    The score is the head's output before its inverse link, with the position tower's part in training, so the order of
    biased clicks is not learned as relevance. Joined to a pointwise loss it orders better while the pointwise loss
    keeps the output calibrated (Li et al., KDD 2015; Bai et al., CIKM 2023).

    loss: TensorFlow Ranking's others draw from the stateful random generator to break ties, so a resumed run would
    differ from an undisturbed one. objective: whose score and label; None is the first one. list_size: a list longer
    than this is cut into several, since the cost grows with its square.
    """

    loss: ListwiseLoss = "approx_ndcg"
    objective: str | None = None
    weight: float = Field(0.1, ge=0)
    list_size: int = Field(64, ge=2)


class RankingConfig(Config):
    """The ranker and its training.

    dim: of every embedding table. expert_units, head_units: hidden layers of each shared expert and each objective's
    head. objectives: empty means what `objectives_for` derives from the dataset's labels. listwise: None turns it off.
    bias_features: context features that sway the response but not its worth; they feed the position tower alone; None
    means `position` where the dataset has it. bias_units: its hidden layer. bias_dropout: share of rows whose
    position is withheld in training. id_dropout: share of user and of item ids hidden in training, so that what is
    unknown can be ranked by its features. batch_size: rows (whole lists are kept together). epochs: at most so many
    passes. patience: training stops after so many in a row without a better validation NDCG. embedding_precision: how
    the tables' rows are stored; in 16 bits they are rounded stochastically.
    """

    dim: int = Field(32, ge=1)
    num_experts: int = Field(4, ge=1)
    expert_units: tuple[int, ...] = Field((64,), min_length=1)
    head_units: tuple[int, ...] = (32,)
    objectives: tuple[Objective, ...] = ()
    listwise: Listwise | None = Listwise()
    bias_features: tuple[str, ...] | None = None
    bias_units: int = Field(16, ge=1)
    bias_dropout: float = Field(0.1, ge=0, lt=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    batch_size: int = Field(2048, ge=1)
    epochs: int = Field(3, ge=1)
    patience: int = Field(2, ge=1)
    embedding_learning_rate: float = Field(0.1, gt=0)
    embedding_precision: Precision = "float32"
    learning_rate: float = Field(0.002, gt=0)

    @model_validator(mode="after")
    def _check(self) -> RankingConfig:
        binary: list[str] = []
        names = [objective.name for objective in self.objectives]
        for objective in self.objectives:
            if names.count(objective.name) > 1:
                raise ValueError(f"two objectives are named {objective.name!r}")
            if objective.given is not None and objective.given not in binary:
                raise ValueError(
                    f"objective {objective.name!r} is given {objective.given!r}, which is not a binary objective "
                    f"listed before it; {nearest(objective.given, binary)}"
                )
            if objective.kind == "binary":
                binary.append(objective.name)
        if names and self.listwise and self.listwise.objective not in (None, *names):
            raise ValueError(
                f"listwise.objective: no objective is named {self.listwise.objective!r}; "
                f"{nearest(str(self.listwise.objective), names)}"
            )
        return self

    def resolved(self, labels: Sequence[Label], means: Mapping[str, float] | None = None) -> RankingConfig:
        """This configuration with its objectives filled in for a dataset.

        labels: the dataset's. means: the mean of a label's known values by its name, the untrained model's prediction
        where an objective does not name its own.

        Raises:
          UserError: an objective names a label the dataset lacks, or one of another kind, or there is none at all.
        """
        objectives = self.objectives or objectives_for(labels)
        _check_labels(objectives, labels)
        means = means or {}
        started = tuple(_started(objective, means.get(objective.label)) for objective in objectives)
        return RankingConfig.model_validate({**self.model_dump(), "objectives": started})


def objectives_for(labels: Sequence[Label]) -> tuple[Objective, ...]:
    """Objectives for a dataset's labels, one a label, in the schema's order but a click first.

    With a binary label `click` every other label is taken as known only on clicked rows (given the click), and the
    value is P(click) (0.1 + 0.3 E[log1p seconds | click] + P(like | click)): what follows the click counts for more
    than the click. Without one every label stands alone with weight 1. A number is a duration in seconds when its
    name says so (`watch_seconds`), a plain number otherwise (`rating`).

    Raises:
      UserError: there are no labels.
    """
    if not labels:
        raise UserError("The dataset has no labels, so there is nothing to rank by.", "Name them in `inputs.labels`.")
    clicked = any(label.name == CLICK and label.kind == "binary" for label in labels)
    ordered = sorted(labels, key=lambda label: not (clicked and label.name == CLICK))
    return tuple(_objective(label, clicked) for label in ordered)


def _objective(label: Label, clicked: bool) -> Objective:
    if clicked and label.name == CLICK:
        return Objective(name=label.name, label=label.name, kind="binary", value_weight=0.1)
    given = CLICK if clicked else None
    if label.kind == "binary":
        return Objective(name=label.name, label=label.name, kind="binary", value_weight=1.0, given=given)
    if any(word in label.name for word in DURATION_WORDS):
        return Objective(name=label.name, label=label.name, kind="duration", value_weight=0.3, given=given)
    return Objective(name=label.name, label=label.name, kind="regression", value_weight=1.0, given=given)


def _check_labels(objectives: Sequence[Objective], labels: Sequence[Label]) -> None:
    kinds = {label.name: label.kind for label in labels}
    for objective in objectives:
        where = f"ranking.objectives: objective '{objective.name}'"
        if objective.label not in kinds:
            raise UserError(
                f"{where} wants the label '{objective.label}', which the dataset lacks; "
                f"{nearest(objective.label, kinds)}",
                "Mend the label's name in the job file, or leave objectives out to have them derived.",
            )
        if objective.kind == "binary" and kinds[objective.label] != "binary":
            raise UserError(
                f"{where} is binary, but the label '{objective.label}' is a {kinds[objective.label]}.",
                "Make the objective a regression, or name a binary label.",
            )


def _started(objective: Objective, mean: float | None) -> Objective:
    if objective.initial is not None or mean is None:
        return objective
    if objective.kind == "binary":
        mean = min(max(mean, 1e-4), 1 - 1e-4)
    return objective.model_copy(update={"initial": mean})
