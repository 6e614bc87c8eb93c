"""Loops other than `fit` in float32: custom ones, those of TFRS, loss scaling by hand, and the same bits twice."""

import subprocess
import sys

import numpy as np
import pytest

from embeddings import SGD, Adagrad, FeatureConfig, ShardedEmbedding, TableConfig
from foundation.tf import keras, tf

import tensorflow_recommenders as tfrs  # isort: skip - after the gateway, which chooses Keras 2 for it

STEPS = 6


@pytest.fixture
def mixed_float16():
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def _layer(**options):
    table = TableConfig("t", 10, 4, SGD(0.5), initializer_scale=0.5)
    return ShardedEmbedding({"v": FeatureConfig(table, "sum")}, **options)


def _ids():
    return tf.constant(np.random.default_rng(0).integers(0, 10, (STEPS, 8)))


def _expected(layer):
    """The table after STEPS steps of SGD on the sum of the vectors looked up: each occurrence takes its rate."""
    counts = np.bincount(_ids().numpy().ravel(), minlength=10)
    return layer.table("t").numpy() - 0.5 * counts[:, None]


def test_a_loop_inside_a_function_takes_one_step_each_time_round():
    layer, optimizer = _layer(), keras.optimizers.Adam()
    wanted = _expected(layer)

    @tf.function
    def train(ids):
        for step in tf.range(STEPS):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer({"v": ids[step]}, training=True)["v"])
            gradients = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))

    train(_ids())
    assert layer.table("t").numpy() == pytest.approx(wanted, abs=1e-5)


class Retrieval(tfrs.Model):
    """Passes no `training`, as TFRS' own tutorials do."""

    def __init__(self):
        super().__init__()
        self.embedding = _layer()

    def compute_loss(self, features, training=False):
        return tf.reduce_sum(tf.cast(self.embedding(features)["v"], tf.float32))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_tfrs_model_trains_in_fit(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = Retrieval()
        wanted = _expected(model.embedding)
        model.compile(keras.optimizers.Adagrad(0.1))
        model.fit(tf.data.Dataset.from_tensor_slices({"v": _ids()}), verbose=0)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.embedding.table("t").numpy() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.usefixtures("mixed_float16")
@pytest.mark.parametrize("dtype", ["mixed_float16", "float32"])
@pytest.mark.parametrize("scaling", [True, False])
def test_a_custom_loop_under_mixed_float16(dtype, scaling):
    layer = _layer(dtype=dtype)
    wanted = _expected(layer)
    optimizer = keras.optimizers.SGD(0.1)
    if scaling:
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=1024.0)
    for ids in _ids():
        with tf.GradientTape() as tape:
            output = layer({"v": ids}, training=True)["v"]
            loss = tf.reduce_sum(tf.cast(output, tf.float32)) + sum(layer.losses)
            scaled = optimizer.get_scaled_loss(loss) if scaling else loss
        gradients = tape.gradient(scaled, layer.trainable_variables)
        if scaling:
            gradients = optimizer.get_unscaled_gradients(gradients)
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))
    assert output.dtype == dtype.removeprefix("mixed_")
    assert layer.table("t").numpy() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.usefixtures("mixed_float16")
def test_a_trained_mixed_float16_model_is_saved_and_goes_on(tmp_path):
    inputs = {"v": keras.Input((), dtype=tf.int64)}
    model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(_layer()(inputs)["v"]))
    data = {"v": np.arange(8)}, np.ones((8, 1))
    model.compile("sgd", "mse")
    model.fit(*data, verbose=0)
    tf.saved_model.save(model, str(tmp_path / "exported"))
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    served = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    (output,) = served(tf.constant(data[0]["v"])).values()
    assert np.array_equal(copy.predict(data[0], verbose=0), model.predict(data[0], verbose=0))
    assert output.numpy() == pytest.approx(model.predict(data[0], verbose=0), abs=1e-6)
    for one in (model, copy):
        one.fit(*data, verbose=0, shuffle=False)
    assert np.array_equal(copy.predict(data[0], verbose=0), model.predict(data[0], verbose=0))


_TWICE = """
import hashlib
from embeddings import *
from foundation.tf import keras, tf
tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(0)
ids = tf.random.stateless_uniform((20, 5000), (1, 2), 0, 300, tf.int64)
for optimizer in (SGD(0.1), Adagrad(0.1), RowWiseAdagrad(0.1), Adam(0.1), FTRL(0.1)):
    layer = ShardedEmbedding({"v": FeatureConfig(TableConfig("t", 300, 16, optimizer), "sum")})
    for step in range(20):
        with tf.GradientTape() as tape:
            vectors = layer({"v": tf.reshape(ids[step], (500, 10))})["v"]
            loss = tf.reduce_mean(tf.square(vectors - 1.0))
        tape.gradient(loss, layer.trainable_variables)
    print(hashlib.sha256(layer.table("t").numpy().tobytes()).hexdigest())
"""


def test_under_op_determinism_another_process_gets_the_same_bits():
    both = [subprocess.Popen([sys.executable, "-c", _TWICE], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    one, other = (process.communicate(timeout=120)[0].split() for process in both)
    assert one == other
    assert len(set(one)) == 5
    assert [process.returncode for process in both] == [0, 0]


def test_adagrad_is_that_of_keras():
    """An independent peer: Keras' Embedding and Adagrad, on the same rows."""
    table = TableConfig("t", 10, 4, Adagrad(0.3), initializer_scale=0.5)
    ours = ShardedEmbedding({"v": FeatureConfig(table, "sum")})
    theirs = keras.layers.Embedding(10, 4, weights=[ours.table("t").numpy()])
    optimizer = keras.optimizers.Adagrad(0.3)
    for ids in _ids():
        for layer, look_up in ((ours, lambda i: ours({"v": i})["v"]), (theirs, theirs)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(look_up(ids) - 1.0))
            gradients = tape.gradient(loss, layer.trainable_variables)
            if layer is theirs:
                optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))
    assert ours.table("t").numpy() == pytest.approx(theirs.embeddings.numpy(), abs=1e-6)
