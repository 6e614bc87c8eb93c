"""Each layer equals its formula."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.tf import tf
from inputs.entities import FeatureSpec
from ranking.bias import PositionTower, bias_features
from ranking.config import RankingConfig
from ranking.dense import ListDense
from ranking.experts import MixtureOfExperts

RNG = np.random.default_rng(0)
QUERY = RNG.normal(size=(2, 3)).astype(np.float32)
ROWS = RNG.normal(size=(5, 4)).astype(np.float32)
LIST_OF_ROW = np.array([0, 0, 1, 1, 1])
POSITION = {"context_position": FeatureSpec("context_position", "number")}


def test_list_dense_is_a_dense_layer_over_the_joined_input() -> None:
    layer = ListDense(3, 4, 6, seed=1, name="layer")
    query_kernel, row_kernel, bias = layer.get_weights()
    joined = np.concatenate([QUERY[LIST_OF_ROW], ROWS], axis=1)
    expected = joined @ np.concatenate([query_kernel, row_kernel]) + bias
    assert layer(QUERY, ROWS, LIST_OF_ROW).numpy() == pytest.approx(expected, abs=1e-5)


def test_mixture_of_experts_equals_its_equation() -> None:
    layer = MixtureOfExperts(3, 4, experts=3, units=(5, 2), tasks=2, seed=1)
    hidden = np.maximum(layer._first(QUERY, ROWS, LIST_OF_ROW).numpy(), 0).reshape(5, 3, 5)
    gates = layer._gates(QUERY, ROWS, LIST_OF_ROW).numpy().reshape(5, 2, 3)
    gates = np.exp(gates) / np.exp(gates).sum(axis=2, keepdims=True)
    kernel = layer._kernels[0].numpy()
    expected = np.zeros((5, 2, 2))
    for row in range(5):
        for task in range(2):
            for expert in range(3):
                expected[row, task] += gates[row, task, expert] * np.maximum(hidden[row, expert] @ kernel[expert], 0)
    assert layer(QUERY, ROWS, LIST_OF_ROW).numpy() == pytest.approx(expected, abs=1e-5)


def test_the_position_tower_is_silent_for_the_dropped_share_by_step_alone() -> None:
    tower = PositionTower(POSITION, units=4, outputs=1, dropout=0.25, seed=3)
    inputs = {"context_position": tf.ones(4_000)}
    one, again, next_step = (tower(inputs, tf.constant(s, tf.int64)).numpy()[:, 0] for s in (5, 5, 6))
    assert (one == again).all()
    assert (one != next_step).any()
    assert (one == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert len(set(one.tolist())) == 2
    assert (tower(inputs, None).numpy() != 0).all()


def test_the_position_tower_takes_categories_too() -> None:
    features = {"context_position": FeatureSpec("context_position", "category", 5, "context_position")}
    tower = PositionTower(features, units=4, outputs=2, dropout=0.0, seed=3)
    logits = tower({"context_position": tf.constant([1, 2, 1], tf.int64)}, tf.constant(0, tf.int64)).numpy()
    assert logits.shape == (3, 2)
    assert (logits[0] == logits[2]).all()
    assert (logits[0] != logits[1]).any()


def test_which_context_features_feed_the_tower() -> None:
    context = {**POSITION, "context_tags": FeatureSpec("context_tags", "categories", 5, "context_tags")}
    assert bias_features(context, RankingConfig()) == POSITION
    assert bias_features({}, RankingConfig()) == {}
    assert bias_features(context, RankingConfig(bias_features=())) == {}
    with pytest.raises(UserError, match="did you mean 'position'"):
        bias_features(context, RankingConfig(bias_features=("positon",)))
    with pytest.raises(UserError, match="'tags' is a list of categories"):
        bias_features(context, RankingConfig(bias_features=("tags",)))
