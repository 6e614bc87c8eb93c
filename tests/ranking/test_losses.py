"""Losses equal their formulas on the rows whose label is known, and lists are what the row splits say."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.tf import tf
from ranking.config import Listwise, Objective
from ranking.listwise import ListwiseLoss
from ranking.losses import inverse_link, pointwise_loss, target

NAN = float("nan")


def objective(kind: str) -> Objective:
    return Objective(name="o", label="o", kind=kind)


def test_pointwise_losses_equal_their_formulas() -> None:
    outputs, clicks = np.array([0.3, -1.0, 2.0, 5.0], np.float32), np.array([1, 0, 1, NAN], np.float32)
    p = 1 / (1 + np.exp(-outputs[:3]))
    expected = -np.log(np.array([p[0], 1 - p[1], p[2]])).mean()
    assert float(pointwise_loss(objective("binary"), outputs, tf.constant(clicks))) == pytest.approx(expected, 1e-6)
    seconds = np.array([10, NAN, 0, NAN], np.float32)
    expected = ((0.3 - np.log(11)) ** 2 + 2.0**2) / 2
    assert float(pointwise_loss(objective("duration"), outputs, tf.constant(seconds))) == pytest.approx(expected, 1e-6)
    expected = ((0.3 - 10) ** 2 + 2.0**2) / 2
    found = pointwise_loss(objective("regression"), outputs, tf.constant(seconds))
    assert float(found) == pytest.approx(expected, 1e-6)


@pytest.mark.parametrize("kind", ["binary", "regression", "duration"])
def test_a_batch_without_a_known_label_costs_nothing(kind: str) -> None:
    outputs = tf.Variable([0.5, -3.0])
    with tf.GradientTape() as tape:
        loss = pointwise_loss(objective(kind), outputs, tf.constant([NAN, NAN]))
    assert float(loss) == 0
    assert tape.gradient(loss, outputs).numpy().tolist() == [0, 0]


def test_one_unknown_label_does_not_spoil_the_gradients() -> None:
    outputs = tf.Variable([0.5, -3.0])
    for kind in ("binary", "regression", "duration"):
        with tf.GradientTape() as tape:
            loss = pointwise_loss(objective(kind), outputs, tf.constant([1.0, NAN]))
        first, second = tape.gradient(loss, outputs).numpy()
        assert np.isfinite(first)
        assert first != 0
        assert second == 0


def test_the_inverse_link_undoes_the_target() -> None:
    labels = tf.constant([0.0, 3.0, 600.0])
    for kind in ("regression", "duration"):
        found = inverse_link(objective(kind), target(objective(kind), labels)).numpy()
        assert found == pytest.approx(labels.numpy(), rel=1e-5)
    assert float(inverse_link(objective("binary"), tf.constant(0.0))) == 0.5
    assert float(inverse_link(objective("duration"), tf.constant(-2.0))) == 0  # never a negative time


def softmax_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(-(labels * (scores - np.log(np.exp(scores).sum()))).sum())


def test_listwise_loss_is_the_mean_over_ragged_lists() -> None:
    scores = np.array([0.1, 0.7, -0.2, 1.5, 0.4], np.float32)
    labels = np.array([1, 0, 0, 1, NAN], np.float32)
    loss = ListwiseLoss(Listwise(loss="softmax"), [objective("binary")])
    found = loss(tf.constant(scores), tf.constant(labels), tf.constant([0, 3, 5], tf.int64))
    expected = (softmax_loss(scores[:3], labels[:3]) + softmax_loss(scores[3:4], labels[3:4])) / 2
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_long_list_is_cut_into_several() -> None:
    scores, labels = np.arange(7, dtype=np.float32) / 3, np.array([0, 1, 0, 0, 1, 1, 0], np.float32)
    loss = ListwiseLoss(Listwise(loss="softmax", list_size=2), [objective("binary")])
    found = loss(tf.constant(scores), tf.constant(labels), tf.constant([0, 5, 7], tf.int64))
    pieces = [(0, 2), (2, 4), (4, 5), (5, 7)]
    expected = np.mean([softmax_loss(scores[a:b], labels[a:b]) for a, b in pieces])
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["approx_ndcg", "approx_mrr", "softmax", "unique_softmax"])
def test_every_listwise_loss_rewards_the_right_order_and_is_finite_without_labels(name: str) -> None:
    loss = ListwiseLoss(Listwise(loss=name), [objective("binary")])
    labels, splits = tf.constant([1.0, 0, 0, NAN]), tf.constant([0, 4], tf.int64)
    right, wrong = (loss(tf.constant(s), labels, splits) for s in ([2.0, 1, 0, 9], [0.0, 1, 2, 9]))
    assert float(right) < float(wrong)
    scores = tf.Variable([0.3, 0.1, 0.9, 0.2])
    for nothing in ([NAN] * 4, [0.0] * 4):
        with tf.GradientTape() as tape:
            value = loss(scores, tf.constant(nothing), splits)
        assert np.isfinite(value)
        assert np.abs(tf.convert_to_tensor(tape.gradient(value, scores))).max() < 1e-6
