"""The ranker learns what items are worth, whatever their position, and repeats itself to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from foundation.tensors import to_tensors
from foundation.tf import as_written, keras, tf
from inputs.schema import Label
from ranking.config import RankingConfig
from ranking.ranker import Ranker

SMALL: dict[str, Any] = {"dim": 8, "num_experts": 3, "expert_units": (24,), "head_units": (8,)}


def new_ranker(world: Any, seed: int = 0, **options: Any) -> Ranker:
    config = RankingConfig(**{**SMALL, **options}).resolved(world.labels)
    return Ranker(world.query_features, world.item_features, world.context_features, config, seed)


def _losses(ranker: Ranker, batch: dict[str, Any], step: tf.Tensor) -> dict[str, tf.Tensor]:
    return ranker.losses_of(ranker.begin(batch, step), step)


def trained(ranker: Ranker, batches: list[dict[str, Any]], steps: int, first: int = 0) -> list[dict[str, float]]:
    """Takes steps as the training loop does, in a `tf.range` inside a `tf.function`; returns each 20 steps' losses."""
    optimizer = keras.optimizers.Adam(5e-3)
    optimizer.build(ranker.trainable_variables)
    one = to_tensors(batches[0])
    signature = {k: tf.type_spec_from_value(v) for k, v in one.items()}
    signature = {k: _any_length(s) for k, s in signature.items()}
    source = tf.data.Dataset.from_generator(lambda: map(to_tensors, batches), output_signature=signature).repeat()

    names: list[str] = []

    @as_written
    def step_of(batch: dict[str, Any], step: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = _losses(ranker, batch, step)
        variables = ranker.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(losses["loss"], variables), variables, strict=True))
        names[:] = losses
        return tf.stack(list(losses.values()))

    @tf.function
    def run(iterator: Any, start: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        total = tf.zeros([])
        for i in tf.range(start, start + count):
            tf.autograph.experimental.set_loop_options(shape_invariants=[(total, tf.TensorShape(None))])
            total += step_of(next(iterator), i)
        return total / tf.cast(count, tf.float32)

    iterator, history = iter(source), []
    for start in range(first, first + steps, 20):
        means = run(iterator, tf.constant(start, tf.int64), tf.constant(20, tf.int64))
        history.append(dict(zip(names, means.numpy().tolist(), strict=True)))
    return history


def _any_length(spec: Any) -> Any:
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec([None, None], spec.dtype, ragged_rank=1)
    return tf.TensorSpec([None], spec.dtype)


def by_user(world: Any, scores: tf.Tensor) -> np.ndarray:
    return scores.numpy().reshape(world.relevance.shape)


def rank_correlation(world: Any, scores: np.ndarray) -> float:
    """Mean over users of Spearman's correlation with the position-free truth."""
    return float(np.mean([spearmanr(*pair).statistic for pair in zip(scores, world.relevance, strict=True)]))


@pytest.fixture(scope="module")
def learned(world: Any) -> tuple[Ranker, list[dict[str, float]], list[dict[str, Any]]]:
    ranker = new_ranker(world)
    batches = [world.batch(256, seed) for seed in range(60)]
    return ranker, trained(ranker, batches, 360), batches


def test_training_lowers_every_loss_and_orders_lists_by_worth(world: Any, learned: Any) -> None:
    ranker, history, _ = learned
    for name in ("loss", "click", "watch_seconds", "like", "listwise"):
        assert history[-1][name] < history[0][name] - 0.02, name
    predictions = ranker.predict(**world.everything())
    for name, scores in {**predictions, "value": ranker.value(predictions)}.items():
        assert rank_correlation(world, by_user(world, scores)) > 0.7, name


def test_predictions_are_in_natural_units(world: Any, learned: Any) -> None:
    predictions = {name: by_user(world, p) for name, p in learned[0].predict(**world.everything()).items()}
    for name in ("click", "like"):
        assert ((predictions[name] > 0) & (predictions[name] < 1)).all()
    true_seconds = np.expm1(2 + 0.5 * world.relevance)
    assert np.median(np.abs(np.log(predictions["watch_seconds"] + 1) - np.log(true_seconds.clip(0) + 1))) < 0.5


def test_a_position_tower_recovers_worth_that_position_hides(world: Any, learned: Any) -> None:
    with_tower, _, batches = learned
    without = new_ranker(world, bias_features=())
    trained(without, batches, 360)
    scores = [by_user(world, r.predict(**world.everything())["click"]) for r in (with_tower, without)]
    towered, plain = (rank_correlation(world, s) for s in scores)
    assert towered > plain + 0.1


def test_position_plays_no_part_in_serving(world: Any, learned: Any) -> None:
    batch = to_tensors(world.batch(4, 1))
    query, item = ({n: batch[n] for n in side} for side in (world.query_features, world.item_features))
    first = learned[0].predict(query, item, batch["list_row_splits"])
    again = learned[0].predict(
        query, item | {"context_position": 9 + batch["context_position"]}, batch["list_row_splits"]
    )
    assert all((first[name].numpy() == again[name].numpy()).all() for name in first)


def test_a_row_is_scored_alike_in_whatever_list_it_stands(world: Any, learned: Any) -> None:
    ranker, everything = learned[0], world.everything()
    whole = by_user(world, ranker.predict(**everything)["click"])
    users, items = np.array([3, 3, 9]), np.array([5, 70, 5])
    queries = to_tensors(world.queries(np.array([3, 9])))
    few = ranker.predict(queries, to_tensors(world.items(items)), tf.constant([0, 2, 3], tf.int64))["click"]
    assert few.numpy() == pytest.approx(whole[users, items], rel=1e-5)


def test_serving_and_judging_change_nothing(world: Any, learned: Any) -> None:
    ranker = learned[0]
    before = [variable.numpy() for variable in ranker.variables]
    ranker.predict(**world.everything())
    held_out = to_tensors(world.batch(64, 1_000))
    first, second = ({k: float(v) for k, v in ranker.held_out_losses(held_out).items()} for _ in range(2))
    assert first == second
    assert all((old == new.numpy()).all() for old, new in zip(before, ranker.variables, strict=True))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(world: Any) -> None:
    batches = [world.batch(32, seed) for seed in range(3)]
    rankers = [new_ranker(world, seed=seed) for seed in (5, 5, 6)]
    assert any((a.numpy() != b.numpy()).any() for a, b in zip(rankers[0].variables, rankers[2].variables, strict=True))
    histories = [trained(ranker, batches, 40) for ranker in rankers[:2]]
    assert histories[0] == histories[1]
    one, same = ([variable.numpy() for variable in ranker.variables] for ranker in rankers[:2])
    assert all((a == b).all() for a, b in zip(one, same, strict=True))


def test_a_step_draws_the_same_whenever_it_is_taken(world: Any) -> None:
    batch = to_tensors(world.batch(32, 0))
    steps = (tf.constant(step, tf.int64) for step in (7, 8, 7))
    losses = [float(_losses(new_ranker(world), batch, step)["loss"]) for step in steps]
    assert losses[0] == losses[2] != losses[1]


def test_every_variable_exists_before_the_first_batch(world: Any, learned: Any) -> None:
    fresh = new_ranker(world)
    assert [v.shape for v in fresh.variables] == [v.shape for v in learned[0].variables]
    assert len(fresh.trainable_variables) == len(learned[0].trainable_variables)


def test_a_batch_in_which_nobody_clicked_is_finite(world: Any) -> None:
    batch = world.batch(8, 0)
    batch["label_click"] = np.zeros_like(batch["label_click"])
    for name in ("label_watch_seconds", "label_like"):
        batch[name] = np.full_like(batch[name], np.nan)
    ranker = new_ranker(world)
    with tf.GradientTape() as tape:
        losses = _losses(ranker, to_tensors(batch), tf.constant(0, tf.int64))
    gradients = tape.gradient(losses["loss"], ranker.trainable_variables)
    assert losses["watch_seconds"] == losses["like"] == 0
    assert np.isfinite(losses["loss"])
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)
    assert all(np.isfinite(variable.numpy()).all() for variable in ranker.variables)


def test_ratings_without_lists_or_position_train_from_their_mean(world: Any) -> None:
    labels = (Label(name="rating", kind="number"), Label(name="like", kind="binary"))
    config = RankingConfig(**SMALL).resolved(labels, {"rating": 3.6, "like": 0.5})
    ranker = Ranker(world.query_features, world.item_features, {}, config, 0)
    batch = world.batch(64, 0)
    stars = (3.6 + world.relevance[batch["user_id"].repeat(8) - 1, batch["item_position"]] / 2).clip(1, 5)
    batch = {name: value for name, value in batch.items() if not name.startswith(("label_", "context_"))}
    batch |= {"label_rating": stars.astype(np.float32), "label_like": (stars >= 4).astype(np.float32)}
    history = trained(ranker, [batch], 100)
    assert history[0]["rating"] < 2  # not the 13 of a model that starts at 0
    assert history[-1]["rating"] < history[0]["rating"] / 2
    query, item = ({n: to_tensors(batch)[n] for n in side} for side in (world.query_features, world.item_features))
    predictions = ranker.predict(query, item, tf.constant(batch["list_row_splits"]))
    expected = predictions["rating"].numpy() + predictions["like"].numpy()
    assert ranker.value(predictions).numpy() == pytest.approx(expected)


def test_a_configuration_without_objectives_is_refused(world: Any) -> None:
    with pytest.raises(ValueError, match="resolved"):
        Ranker(world.query_features, world.item_features, {}, RankingConfig(), 0)
