"""The value model: several predictions of one item as the one number that items are ranked by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundation.tf import tf
from ranking.config import Objective


class ValueModel:
    """value = sum over objectives o of value_weight_o * P(o happens) * utility_o.

    P(o happens) is the product of the predicted probabilities down o's chain of `given`, 1 where it has none: a watch
    that follows a click counts by P(click) E[watch | click]. utility_o is the predicted probability of a binary
    objective, the prediction of a regression, and log1p of a duration's seconds, whose worth grows ever more slowly.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = {objective.name: objective for objective in objectives}

    def __call__(self, predictions: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """predictions: by objective, [R] float32 in natural units (probability, seconds). Returns [R] float32."""
        valued = [objective for objective in self._objectives.values() if objective.value_weight]
        terms = [self._term(objective, predictions) for objective in valued]
        return tf.add_n(terms) if terms else tf.zeros_like(next(iter(predictions.values())))

    def _term(self, objective: Objective, predictions: Mapping[str, tf.Tensor]) -> tf.Tensor:
        utility = tf.convert_to_tensor(predictions[objective.name])
        if objective.kind == "duration":
            utility = tf.math.log1p(utility)
        given = objective.given
        while given is not None:
            utility = utility * predictions[given]
            given = self._objectives[given].given
        return objective.value_weight * utility
