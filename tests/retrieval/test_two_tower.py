"""The two-tower model: made whole by its seed, the same at the same step, and able to learn."""

import itertools

import numpy as np
import pytest

from foundation.tensors import to_tensors
from foundation.tf import keras, tf
from retrieval.config import RetrievalConfig
from retrieval.towers import Tower, side_by_side, width_of
from retrieval.two_tower import TwoTower, falling

SMALL = RetrievalConfig(embedding_dim=8, units=(16,), dim=12, embedding_learning_rate=0.2)


def two_tower(world, seed: int = 3, steps: int = 1, **options) -> TwoTower:
    config = SMALL.model_copy(update=options)
    return TwoTower(world.query_features, world.item_features, config, seed, steps)


def step_of(number: int) -> tf.Tensor:
    return tf.constant(number, tf.int64)


def _loss(model: TwoTower, batch: dict, step: tf.Tensor) -> tf.Tensor:
    return model.losses_of(model.begin(batch, step), step)["loss"]


def loss_at(step: int, batch: dict, world, **options) -> float:
    """Of a new model: a step without its gradient is an error of its own."""
    return float(_loss(two_tower(world, **options), batch, step_of(step)))


def products(model: TwoTower, world, users: np.ndarray) -> np.ndarray:
    queries = model.embed_queries(to_tensors(world.queries(users)))
    items = model.embed_items(to_tensors(world.items(np.arange(len(world.topics)))))
    return (queries.numpy() @ items.numpy().T).astype(np.float64)


class TestTower:
    @pytest.mark.parametrize("units", [(), (5,), (7, 5)])
    def test_is_a_linear_map_plus_a_relu_network(self, units):
        tower = Tower("tower", 4, units, 3, dropout=0.5, seed=1)
        weights = [variable.numpy() for variable in tower.trainable_variables]
        assert len(weights) == 2 * (1 + len(units) + bool(units))
        inputs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        kernels = {tuple(w.shape): w for w in weights if w.ndim == 2}
        expected = inputs @ kernels[4, 3]
        if units:
            hidden = inputs
            for before, after in zip([4, *units], units, strict=False):
                hidden = np.maximum(hidden @ kernels[before, after], 0)
            expected = expected + hidden @ kernels[units[-1], 3]
        np.testing.assert_allclose(tower(tf.constant(inputs)), expected, atol=1e-5)  # biases begin at 0

    def test_dropout_is_of_training_alone_and_follows_the_step(self):
        tower = Tower("tower", 4, (64,), 3, dropout=0.5, seed=1)
        inputs = tf.ones((2, 4))
        served, first, second = (tower(inputs, draws) for draws in ([], *(tower.draws(2, step_of(n)) for n in (1, 2))))
        np.testing.assert_array_equal(served, tower(inputs))
        np.testing.assert_array_equal(first, tower(inputs, tower.draws(2, step_of(1))))
        assert not np.allclose(first, served)
        assert not np.allclose(first, second)

    def test_inputs_stand_side_by_side_in_the_features_order(self, world):
        batch = to_tensors(world.items(np.arange(3)))
        activations = {"item_id": tf.fill((3, 2), 1.0), "item_topic": tf.fill((3, 2), 2.0)}
        joined = side_by_side(world.item_features, activations, batch).numpy()
        assert joined.shape == (3, width_of(world.item_features, 2)) == (3, 5)
        np.testing.assert_array_equal(joined, [[1, 1, 2, 2, age] for age in (0, 1, 2)])


class TestConstruction:
    def test_every_variable_exists(self, world):
        model = two_tower(world)
        before = [(variable.name, variable.shape) for variable in model.variables]
        _loss(model, to_tensors(world.batch(8, 0)), step_of(0))
        products(model, world, np.arange(3))
        assert [(variable.name, variable.shape) for variable in model.variables] == before
        assert {tuple(model.embedding.table(name).shape) for name in ("item_id", "item_topic")} == {(61, 8), (6, 8)}

    def test_initial_values_follow_the_seed_alone(self, world):
        first = two_tower(world)
        keras.utils.set_random_seed(99)
        second, other = two_tower(world), two_tower(world, seed=4)
        for one, two in zip(first.variables, second.variables, strict=True):
            np.testing.assert_array_equal(one.numpy(), two.numpy())
        users = np.arange(5)
        np.testing.assert_array_equal(products(first, world, users), products(second, world, users))
        assert not np.allclose(products(first, world, users), products(other, world, users))

    def test_the_towers_begin_differently(self, world):
        model = two_tower(world)
        kernels = [v.numpy() for v in model.trainable_variables if len(v.shape) == 2]
        flat = [np.round(kernel.ravel()[:8], 6).tolist() for kernel in kernels]
        assert all(flat.count(values) == 1 for values in flat)


class TestLoss:
    def test_is_a_function_of_batch_and_step(self, world):
        batch = to_tensors(world.batch(32, 0))
        at = [loss_at(step, batch, world) for step in (5, 6, 5)]
        assert at[0] == at[2] != at[1]

    def test_without_dropout_it_is_the_softmax_of_the_served_vectors(self, world):
        model = two_tower(world, dropout=0.0, id_dropout=0.0)
        batch = world.batch(16, 1)
        tensors = to_tensors(batch)
        logits = model.embed_queries(tensors).numpy() @ model.embed_items(tensors).numpy().T - batch["log_q"]
        same = batch["item_position"][:, None] == batch["item_position"]
        logits[same & ~np.eye(16, dtype=bool)] = -np.inf
        expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
        losses = [loss_at(step, tensors, world, dropout=0.0, id_dropout=0.0) for step in (0, 1)]
        assert losses[0] == losses[1] == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("share", [0.1, 0.4])
    def test_id_dropout_hides_about_that_share_of_user_and_item_ids(self, world, share):
        model = two_tower(world, id_dropout=share)
        batch = to_tensors(world.batch(2_000, 0))
        asked = model.begin(batch, step_of(0))["lookups"].inputs
        hidden = {}
        for name in ("user_id", "item_id"):
            hidden[name] = asked[name].numpy() == 0
            np.testing.assert_array_equal(asked[name].numpy()[~hidden[name]], batch[name].numpy()[~hidden[name]])
            assert hidden[name].mean() == pytest.approx(share, abs=0.04)
        both = (hidden["user_id"] & hidden["item_id"]).mean()
        assert both == pytest.approx(share**2, abs=0.04)  # independently of each other
        np.testing.assert_array_equal(asked["item_topic"], batch["item_topic"])
        np.testing.assert_array_equal(asked["history_item_id"].flat_values, batch["history_item_id"].flat_values)


class TestVectors:
    def test_shapes_and_the_bias_element(self, world):
        model = two_tower(world)
        queries = model.embed_queries(to_tensors(world.queries(np.arange(7)))).numpy()
        items = model.embed_items(to_tensors(world.items(np.arange(9)))).numpy()
        assert queries.shape == (7, 12)
        assert items.shape == (9, 12)
        assert queries.dtype == items.dtype == np.float32
        assert (queries[:, -1] == 1).all()
        assert len(np.unique(items[:, -1])) > 1

    def test_a_row_does_not_depend_on_its_neighbours(self, world):
        model = two_tower(world)
        all_at_once = model.embed_queries(to_tensors(world.queries(np.arange(6)))).numpy()
        batch = world.queries(np.arange(6))
        alone = {n: v.take(np.array([4])) if hasattr(v, "row_splits") else v[4:5] for n, v in batch.items()}
        np.testing.assert_allclose(model.embed_queries(to_tensors(alone))[0], all_at_once[4], atol=1e-6)

    def test_empty_histories_are_served(self, world):
        model = two_tower(world)
        some = model.embed_queries(to_tensors(world.queries(np.arange(3), np.array([0, 4, 0])))).numpy()
        none = model.embed_queries(to_tensors(world.queries(np.arange(3), np.zeros(3, np.int64)))).numpy()
        assert some.shape == none.shape == (3, 12)
        assert np.isfinite(some).all()
        np.testing.assert_allclose(some[[0, 2]], none[[0, 2]], atol=1e-6)
        assert not np.allclose(some[1], none[1])


@pytest.fixture(scope="module", params=[("RowWiseAdagrad", 0.2), ("Adam", 0.01)], ids=lambda tables: tables[0])
def trained(world, request) -> tuple[TwoTower, list[float]]:
    steps = 120
    optimizer, rate = request.param
    model = two_tower(world, steps=steps, embedding_optimizer=optimizer, embedding_learning_rate=rate)
    optimizer = keras.optimizers.Adam(falling(0.01, steps))

    @tf.function(reduce_retracing=True)
    def train(batch, step):
        with tf.GradientTape() as tape:
            loss = _loss(model, batch, step)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return model, [float(train(to_tensors(world.batch(64, step)), step_of(step))) for step in range(steps)]


class TestTraining:
    def test_lowers_the_loss(self, trained):
        _, losses = trained
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])

    def test_ranks_what_a_user_likes_first(self, trained, world):
        users = np.arange(len(world.tastes))
        liked = world.topics == world.tastes[:, None]

        def precision(model) -> float:
            best = np.argsort(-products(model, world, users), axis=1)[:, :10]
            return float(np.take_along_axis(liked, best, axis=1).mean())

        assert precision(two_tower(world)) < 0.6
        assert precision(trained[0]) > 0.95

    def test_an_unknown_user_is_served_from_the_history(self, trained, world):
        model, _ = trained
        users = np.arange(len(world.tastes))
        queries = {**world.queries(users), "user_id": np.zeros(len(users), np.int64)}
        items = model.embed_items(to_tensors(world.items(np.arange(len(world.topics)))))
        best = np.argmax(model.embed_queries(to_tensors(queries)).numpy() @ items.numpy().T, axis=1)
        assert (world.topics[best] == world.tastes).mean() > 0.9


def test_the_learning_rate_falls_to_nothing():
    rate = falling(0.4, 10)
    values = [float(rate(step)) for step in range(11)]
    assert values[0] == pytest.approx(0.4)
    assert values[-1] == pytest.approx(0, abs=1e-7)
    assert all(after < before for before, after in itertools.pairwise(values))


def test_what_a_step_does_behind_its_lookups_compiles_for_a_device_of_fixed_shapes(world):
    """XLA on the processor; with its lookups given it computes what the step does, gradients too."""
    model, step = two_tower(world), step_of(3)
    begun = model.begin(to_tensors(world.batch(16, seed=1)), step)
    activations = model.embedding(begun["lookups"].inputs)
    model.embedding = lambda given, training: given
    flat = tf.nest.flatten({**begun, "lookups": activations}, expand_composites=True)

    def losses(*flat):
        with tf.GradientTape() as tape:
            tape.watch(flat)
            given = tf.nest.pack_sequence_as({**begun, "lookups": activations}, flat, expand_composites=True)
            loss = model.losses_of(given, step)["loss"]
        variables = [*model._query_tower.trainable_variables, *model._item_tower.trainable_variables]
        return loss, *tape.gradient(loss, variables)

    compiled = tf.function(losses, jit_compile=True, autograph=False)(*flat)
    for ours, wanted in zip(compiled, losses(*flat), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)
