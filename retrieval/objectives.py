"""What a positive is worth: several objectives, each with its weight.

An objective is the softmax loss with every row weighted by a reward, the loss of Yi et al. ("Sampling-Bias-Corrected
Neural Modeling for Large Corpus Item Recommendations", RecSys 2019, eq. 4: a click's reward there is how much of the
video was watched). So an objective's vectors look for what users watch long, or like, and not for what they click.
Weighting by watch time is older (Covington et al., RecSys 2016, section 4.2), and one weight per objective, engagement
beside satisfaction, is how Zhao et al. ("Recommending What Video to Watch Next", RecSys 2019) combine them. They are
combined in the loss and not in vectors of their own, since an index is searched by one inner product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from foundation.config import Config
from foundation.errors import UserError, nearest
from inputs.schema import Label

REWARD = "reward_"  # an objective's rewards in a batch are under `reward_<name>`
TOTAL = "loss"


class RetrievalObjective(Config):
    """name: of its loss. label: of the log, whose values are the rewards; None: every positive's is the same.
    transform: of the values: "identity", or "log1p", for watch time, whose few large values would be all there is.
    weight: of its loss in the total, in which weights count by their shares.

    An objective's rewards are scaled to a mean of 1 over the training positives, so weights mean the same whatever the
    unit. A label that is not known of a positive rewards it with 0.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    label: str | None = None
    transform: Literal["identity", "log1p"] = "identity"
    weight: float = Field(1.0, gt=0)


def refuse_repeated_objectives(objectives: Sequence[RetrievalObjective]) -> None:
    """Raises ValueError when two have one name, or one is named as their total is."""
    names = [objective.name for objective in objectives]
    for name in names:
        if name == TOTAL:
            raise ValueError(f"objectives: an objective cannot be named {name!r}: that names their total")
        if names.count(name) > 1:
            raise ValueError(f"objectives: two objectives are named {name!r}")


def labels_of(objectives: Sequence[RetrievalObjective], labels: Sequence[Label]) -> tuple[str, ...]:
    """The labels that they read, each once. labels: the log's.

    Raises:
      UserError: the log lacks one.
    """
    names = [label.name for label in labels]
    for objective in objectives:
        if objective.label is not None and objective.label not in names:
            raise UserError(
                f"retrieval.objectives: objective '{objective.name}' wants the label '{objective.label}', which the "
                f"log lacks; {nearest(objective.label, names)}",
                "Mend the label's name.",
            )
    return tuple(dict.fromkeys(objective.label for objective in objectives if objective.label is not None))


def rewards_of(
    objectives: Sequence[RetrievalObjective], labels: Mapping[str, np.ndarray], rows: int
) -> dict[str, np.ndarray]:
    """{`reward_<name>`: [rows] float32} of training positives. labels: [rows] float32 by name, NaN: unknown.

    Raises:
      UserError: a label has a negative or infinite value, or is 0 or unknown throughout.
    """
    return {REWARD + objective.name: _rewards(objective, labels, rows) for objective in objectives}


def _rewards(objective: RetrievalObjective, labels: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    if objective.label is None:
        return np.ones(rows, np.float32)
    where = f"retrieval.objectives: objective '{objective.name}'"
    values = labels[objective.label].astype(np.float64)
    values = np.where(np.isnan(values), 0.0, values)
    wrong = np.flatnonzero((values < 0) | ~np.isfinite(values))
    if len(wrong):
        raise UserError(
            f"{where}: a reward is finite and not negative; label '{objective.label}' is {values[wrong[0]]:g} in "
            f"training positive {wrong[0]:,} (in time order), and so in {len(wrong):,} of {rows:,}.",
            "Choose another label.",
        )
    if objective.transform == "log1p":
        values = np.log1p(values)
    if not values.any():
        raise UserError(
            f"{where}: label '{objective.label}' is 0 or unknown in all {rows:,} training positives.",
            "Choose another label, or change inputs.positive.",
        )
    return (values / values.mean()).astype(np.float32)
