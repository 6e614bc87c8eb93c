"""Inside a plain Keras fit, the tables are those of a dense numpy reference."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embeddings
from embeddings import FeatureConfig, ShardedEmbedding, TableConfig
from foundation.tf import keras, tf

STEPS, BATCH, VOCABULARY, DIM = 50, 4, 12, 3
COMBINERS = ("sum", "mean", "sqrtn")


class SumOfBags(keras.Model):
    """The squared distance of every feature's output to a target: a loss whose gradient is known by heart."""

    def __init__(self, features, weighted):
        super().__init__()
        self.embedding = ShardedEmbedding(features)
        self.weighted = weighted

    def call(self, inputs, training=None):
        asked = {}
        for name in self.embedding.features:
            ids = tf.RaggedTensor.from_row_splits(inputs[f"{name}_ids"][0], inputs[f"{name}_splits"][0])
            if self.weighted[name]:
                weights = tf.RaggedTensor.from_row_splits(inputs[f"{name}_weights"][0], inputs[f"{name}_splits"][0])
                asked[name] = (ids, weights)
            else:
                asked[name] = ids
        outputs = self.embedding(asked, training=training)
        return tf.stack([tf.cast(outputs[name], tf.float32) for name in sorted(outputs)], axis=0)


class HalfSquares(keras.losses.Loss):
    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, target, output):
        return 0.5 * tf.reduce_sum(tf.square(output - target[0]))


def _ragged_batch(rng, weighted):
    rows = [rng.integers(0, VOCABULARY, rng.integers(0, 5)).tolist() for _ in range(BATCH)]
    return rows, [(rng.integers(1, 128, len(r)) / 64).tolist() for r in rows] if weighted else None


def _inputs(batches):
    """One Keras batch a step: flat ids and splits, padded by nothing, so a generator yields them."""
    for features, target in batches:
        inputs = {}
        for name, (rows, weights) in features.items():
            flat = [i for row in rows for i in row]
            splits = np.cumsum([0, *map(len, rows)])
            inputs[f"{name}_ids"] = np.array([flat], np.int64).reshape(1, -1)
            inputs[f"{name}_splits"] = splits[None].astype(np.int64)
            if weights is not None:
                inputs[f"{name}_weights"] = np.array([[w for row in weights for w in row]], np.float32).reshape(1, -1)
        yield inputs, target[None].astype(np.float32)


def _dataset(batches):
    batches = list(_inputs(batches))
    signature = (
        {name: tf.TensorSpec([1, None], value.dtype) for name, value in batches[0][0].items()},
        tf.TensorSpec([1, *batches[0][1].shape[1:]], tf.float32),
    )
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


def _scenario(seed, kind, combiners, weighted, shared, options):
    """(features by name, batches) of a random problem."""
    rng = np.random.default_rng(seed)
    tables = {}
    for place in range(len(combiners)):
        name = "table" if shared else f"table_{place}"
        tables[place] = TableConfig(
            name, VOCABULARY, DIM, getattr(embeddings, kind)(0.1, **options), seed=seed, initializer_scale=0.5
        )
    features = {f"f{p}": FeatureConfig(tables[p], combiner) for p, combiner in enumerate(combiners)}
    weights = {f"f{p}": weighted[p % len(weighted)] for p in range(len(combiners))}
    batches = [
        (
            {name: _ragged_batch(rng, weights[name]) for name in features},
            rng.normal(size=(len(features), BATCH, DIM)).astype(np.float32),
        )
        for _ in range(STEPS)
    ]
    return features, weights, batches


def _expected(reference, layer, features, batches, kind, options, rounded=lambda x: x, kept=lambda x: x):
    dense = {
        name: reference.DenseTable(layer.table(name).numpy(), kind, 0.1, **options)
        for name in {f.table.name for f in features.values()}
    }
    for bags, target in batches:
        gradients = {name: np.zeros_like(table.values) for name, table in dense.items()}
        touched = {name: np.zeros(VOCABULARY, bool) for name in dense}
        for place, (name, (rows, weights)) in enumerate(sorted(bags.items())):
            table = features[name].table.name
            outputs, coefficients = reference.combined(dense[table].values, rows, weights, features[name].combiner)
            error = kept(rounded(outputs) - target[place])
            for row, ids in enumerate(rows):
                touched[table][ids] = True
                for identifier, share in zip(ids, coefficients[row], strict=True):
                    gradients[table][identifier] += share * error[row]
        for name, gradient in gradients.items():
            dense[name].step(gradient, touched[name])
    return dense


def _fit(features, weights, batches, **options):
    model = SumOfBags(features, weights)
    before = ShardedEmbedding(features)  # the same initial values: a function of seed, table, id and column
    optimizer = keras.optimizers.SGD(0.01, **options.pop("optimizer", {}))
    model.compile(optimizer, HalfSquares(), **options)
    model.fit(_dataset(batches), epochs=1, steps_per_epoch=STEPS, verbose=0)
    return model, before


# Adam's step of a first gradient near 0 hangs on that gradient's sign: a larger epsilon makes it smooth.
METHODS = {
    "SGD": [{}, {"weight_decay": 0.2}],
    "Adagrad": [{}, {"weight_decay": 0.2}],
    "RowWiseAdagrad": [{}, {"weight_decay": 0.2}],
    "Adam": [{"epsilon": 0.1}, {"epsilon": 0.1, "beta_1": 0.5, "beta_2": 0.9, "weight_decay": 0.2}],
    "FTRL": [{}, {"l1": 0.01, "l2": 0.1, "beta": 1.0}],
}

problems = {
    "seed": st.integers(0, 10_000),
    "method": st.sampled_from([(kind, options) for kind, choices in METHODS.items() for options in choices]),
    "combiners": st.lists(st.sampled_from(COMBINERS), min_size=1, max_size=3),
    "weighted": st.lists(st.booleans(), min_size=1, max_size=3),
    "shared": st.booleans(),
    "clip": st.sampled_from([{}, {}, {"clipnorm": 0.7}, {"clipvalue": 0.2}]),
}


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps_per_execution=st.sampled_from([1, 5]), **problems)
def test_fit_equals_the_reference(reference, seed, method, combiners, weighted, shared, clip, steps_per_execution):
    kind, options = method
    options = {**options, **clip}
    features, weights, batches = _scenario(seed, kind, combiners, weighted, shared, options)
    model, before = _fit(features, weights, batches, steps_per_execution=steps_per_execution)
    for name, table in _expected(reference, before, features, batches, kind, options).items():
        assert model.embedding.table(name).numpy() == pytest.approx(table.values, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("optimizer", [{"clipnorm": 0.1}, {"clipvalue": 0.01}, {"global_clipnorm": 0.1}])
def test_clipping_by_keras_leaves_the_tables_alone(reference, optimizer):
    features, weights, batches = _scenario(3, "Adagrad", ["mean", "sum"], [True, False], True, {})
    model, before = _fit(features, weights, batches, optimizer=optimizer)
    for name, table in _expected(reference, before, features, batches, "Adagrad", {}).items():
        assert model.embedding.table(name).numpy() == pytest.approx(table.values, abs=1e-6, rel=1e-6)


@pytest.fixture
def mixed_float16():
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def _half(values):
    return values.astype(np.float16).astype(float)


def _scaled(scale):
    """What a float16 gradient keeps of itself under a loss scale."""
    return lambda gradient: _half(gradient * scale) / scale


@pytest.mark.usefixtures("mixed_float16")
@pytest.mark.parametrize(
    ("kind", "steps_per_execution", "scale"),
    [
        ("SGD", 1, 1024.0),
        ("SGD", 5, 1.0),
        ("Adagrad", 1, 1.0),
        ("Adagrad", 5, 1024.0),
        ("RowWiseAdagrad", 1, 1024.0),
        ("RowWiseAdagrad", 5, 1024.0),
    ],
)
def test_mixed_float16_equals_the_reference_rounded_where_keras_rounds(reference, kind, steps_per_execution, scale):
    features, weights, batches = _scenario(11, kind, ["mean", "sum"], [True, False], True, {})
    model = SumOfBags(features, weights)
    before = ShardedEmbedding(features)
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.01), dynamic=False, initial_scale=scale)
    model.compile(optimizer, HalfSquares(), steps_per_execution=steps_per_execution)
    model.fit(_dataset(batches), epochs=1, steps_per_epoch=STEPS, verbose=0)
    expected = _expected(reference, before, features, batches, kind, {}, rounded=_half, kept=_scaled(scale))
    for name, table in expected.items():
        assert model.embedding.table(name).dtype == tf.float32
        assert model.embedding.table(name).numpy() == pytest.approx(table.values, abs=1e-6, rel=1e-6)


@pytest.mark.usefixtures("mixed_float16")
def test_steps_that_the_loss_scale_skips_are_skipped_by_the_tables_too():
    features, weights, batches = _scenario(5, "Adagrad", ["mean"], [False], True, {})
    model = SumOfBags(features, weights)
    before = model.embedding.table("table").numpy()
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**20)
    model.compile(optimizer, HalfSquares())
    model.fit(_dataset(batches[:2]), epochs=1, steps_per_epoch=2, verbose=0)
    assert np.array_equal(model.embedding.table("table").numpy(), before)
    model.fit(_dataset(batches), epochs=1, steps_per_epoch=STEPS, verbose=0)
    skipped = 20 - int(np.log2(float(optimizer.loss_scale)))  # the scale is halved at each skipped step
    assert 2 < skipped < STEPS
    updates = next(w for w in model.embedding.weights if w.name.startswith("table/updates"))
    assert int(updates) == 2 + STEPS - skipped
    assert np.isfinite(model.embedding.table("table").numpy()).all()


@pytest.mark.usefixtures("mixed_float16")
def test_a_skipped_step_leaves_nothing_to_a_later_one_of_other_features():
    tables = [TableConfig("a", 10, 4, embeddings.SGD(1.0)), TableConfig("b", None, 4, embeddings.SGD(1.0))]
    layer = ShardedEmbedding({config.name: FeatureConfig(config, None) for config in tables})
    before = layer.table("a").numpy()
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=4.0)

    def step(name, factor):
        with tf.GradientTape() as tape:
            vectors = tf.cast(layer({name: tf.constant([3])}, training=True)[name], tf.float32)
            loss = tf.reduce_sum(vectors) * factor
            scaled = optimizer.get_scaled_loss(loss + sum(layer.losses))
        gradients = tape.gradient(scaled, layer.trainable_variables)
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))

    step("a", float("inf"))  # skipped
    step("b", 1.0)
    assert np.array_equal(layer.table("a").numpy(), before)
    assert layer.vocabulary("b").ids.tolist() == [3]
