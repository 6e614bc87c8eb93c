"""Loss of one objective over rows, and the way between its label, the head's output and the prediction."""

from __future__ import annotations

from foundation.tf import tf
from ranking.config import Objective


def target(objective: Objective, labels: tf.Tensor) -> tf.Tensor:
    """Labels [R] on the scale of the head's output: log1p seconds for a duration, else as they are. NaN stays."""
    return tf.math.log1p(labels) if objective.kind == "duration" else labels


def inverse_link(objective: Objective, outputs: tf.Tensor) -> tf.Tensor:
    """Head outputs [R] in natural units: probability, the label's own, or seconds. A duration is the time whose log1p
    is the expected one, never negative."""
    if objective.kind == "binary":
        return tf.sigmoid(outputs)
    return tf.nn.relu(tf.math.expm1(outputs)) if objective.kind == "duration" else outputs


def known_rows(labels: tf.Tensor) -> tf.Tensor:
    """[] float32: how many of the labels [R] are known (not NaN)."""
    return tf.reduce_sum(tf.cast(tf.logical_not(tf.math.is_nan(labels)), tf.float32))


def pointwise_loss(
    objective: Objective, outputs: tf.Tensor, labels: tf.Tensor, known_in_batch: tf.Tensor | None = None
) -> tf.Tensor:
    """Mean over the rows whose label is known (not NaN), 0 when there are none; of a share of a batch, what its rows
    add to the mean over `known_in_batch` rows, [] float32.

    outputs, labels: [R] float32. Cross-entropy of the logit for a binary objective, squared error of `target`
    otherwise. Watch time is regressed on log1p seconds rather than by weighted logistic regression (Covington et al.,
    RecSys 2016): given the click, whose probability has its own head, the odds' approximation no longer holds.
    """
    known = tf.logical_not(tf.math.is_nan(labels))
    wanted = tf.where(known, target(objective, labels), tf.zeros_like(labels))
    if objective.kind == "binary":
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=outputs)
    else:
        losses = tf.math.squared_difference(outputs, wanted)
    total = tf.reduce_sum(tf.where(known, losses, tf.zeros_like(losses)))
    return total / tf.maximum(known_rows(labels) if known_in_batch is None else known_in_batch, 1.0)
