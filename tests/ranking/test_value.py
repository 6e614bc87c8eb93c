"""The value model is the sum its documentation states."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.tf import tf
from ranking.config import Objective
from ranking.value import ValueModel


def objective(name: str, kind: str, value_weight: float, given: str | None = None) -> Objective:
    return Objective(name=name, label=name, kind=kind, value_weight=value_weight, given=given)


def test_what_follows_a_click_counts_by_the_clicks_probability() -> None:
    model = ValueModel(
        (
            objective("click", "binary", 0.1),
            objective("watch", "duration", 0.3, "click"),
            objective("like", "binary", 2.0, "click"),
            objective("share", "binary", 5.0, "like"),
        )
    )
    click, watch, like, share = (np.array(v, np.float32) for v in ([0.5, 0.1], [20, 0], [0.2, 0.9], [0.01, 0.5]))
    predictions = {"click": click, "watch": watch, "like": like, "share": share}
    expected = click * (0.1 + 0.3 * np.log1p(watch) + 2.0 * like * (1 + 2.5 * share))
    assert model({k: tf.constant(v) for k, v in predictions.items()}).numpy() == pytest.approx(expected, rel=1e-6)


def test_ratings_add_up_and_what_has_no_weight_is_left_out() -> None:
    model = ValueModel((objective("rating", "regression", 1.0), objective("like", "binary", 2.0)))
    predictions = {"rating": tf.constant([3.5, 4.0]), "like": tf.constant([0.5, 0.25])}
    assert model(predictions).numpy() == pytest.approx([4.5, 4.5])
    silent = ValueModel((objective("rating", "regression", 0.0),))
    assert silent(predictions).numpy().tolist() == [0, 0]
