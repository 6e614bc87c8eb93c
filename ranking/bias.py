"""The position tower: what sways a click without being its worth, learned apart and left out of serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.draws import uniform
from foundation.errors import UserError, nearest
from foundation.tf import keras, tf
from inputs.entities import FeatureSpec
from ranking.config import RankingConfig
from ranking.dense import MLP

POSITION = "position"


def bias_features(context_features: Mapping[str, FeatureSpec], config: RankingConfig) -> dict[str, FeatureSpec]:
    """The context inputs that feed the position tower, by input name.

    Raises:
      UserError: `config.bias_features` names one the dataset lacks, or one that is a list of categories.
    """
    known = {name.removeprefix("context_"): spec for name, spec in context_features.items()}
    wanted = config.bias_features if config.bias_features is not None else tuple({POSITION} & known.keys())
    for name in wanted:
        if name not in known:
            raise UserError(
                f"ranking.bias_features: the dataset has no context feature '{name}'; {nearest(name, known)}",
                "Mend the name in the job file, or give [] for no position tower.",
            )
        if known[name].kind == "categories":
            raise UserError(
                f"ranking.bias_features: '{name}' is a list of categories.", "Wanted: a category or a number."
            )
    return {f"context_{name}": known[name] for name in wanted}


class PositionTower(keras.layers.Layer):
    """A shallow network from position to an addition to the click's logit, left out of serving (Zhao et al., RecSys
    2019, section 4.3). For a share `dropout` of the rows it says nothing, as in serving, so that the ranking's own
    logit learns the click rate over all positions.
    """

    def __init__(
        self, features: Mapping[str, FeatureSpec], units: int, outputs: int, dropout: float, seed: int
    ) -> None:
        super().__init__(name="position_tower")
        self._features, self._dropout, self._seed = dict(features), dropout, seed
        width = sum(1 if spec.kind == "number" else spec.vocabulary_size for spec in features.values())
        self._network = MLP(width, (units,), outputs, seed, "network")

    def call(self, inputs: Mapping[str, Any], step: tf.Tensor | None, first_row: tf.Tensor | int = 0) -> tf.Tensor:
        """inputs: context inputs [R] by name; step: [] int64, seeds the dropout; None for none of it. first_row: []
        int64, of these among the global batch's rows. Returns logits [R, outputs]."""
        parts = [
            tf.cast(inputs[name], tf.float32)[:, tf.newaxis]
            if spec.kind == "number"
            else tf.one_hot(inputs[name], spec.vocabulary_size)
            for name, spec in self._features.items()
        ]
        logits = self._network(tf.concat(parts, axis=1))
        if step is None:
            return logits
        withheld = uniform(tf.shape(logits)[0], 1, first_row, step, self._seed) < self._dropout
        return tf.where(withheld, 0.0, logits)
