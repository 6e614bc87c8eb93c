"""The layer's promises outside of long training: forms of input, errors, checkpoints, exports."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import FTRL, SGD, Adagrad, Adam, FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.hashing import initial_rows, table_key
from foundation.tf import keras, tf

TABLE = TableConfig("video", vocabulary_size=10, dim=4, optimizer=SGD(0.5))


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    keras.mixed_precision.set_global_policy("float32")


def _layer(**combiners):
    return ShardedEmbedding({name: FeatureConfig(TABLE, combiner) for name, combiner in combiners.items()})


def test_initial_values_equal_integer_arithmetic(reference):
    key = table_key(7, "video")
    rows = np.array([0, 3, 2**40, 2**62])
    got = initial_rows(tf.constant(rows), 5, key, 0.05).numpy()
    wanted = [[reference.initial_value(key, int(r), c, 0.05) for c in range(5)] for r in rows]
    assert np.array_equal(got, np.array(wanted, np.float32))


def test_initial_values_depend_on_seed_table_id_and_column_alone():
    whole = ShardedEmbedding({"a": FeatureConfig(TableConfig("t", 1_000, 8, seed=3))}).table("t").numpy()
    smaller = ShardedEmbedding({"a": FeatureConfig(TableConfig("t", 100, 8, seed=3))}).table("t").numpy()
    assert np.array_equal(whole[:100], smaller)
    for other in (TableConfig("t", 100, 8, seed=4), TableConfig("u", 100, 8, seed=3)):
        assert not np.array_equal(ShardedEmbedding({"a": FeatureConfig(other)}).table(other.name).numpy(), smaller)
    assert abs(whole.mean()) < 0.002
    assert 0.0499 < abs(whole).max() < 0.05


# Kernels may take what is smaller than the smallest normal float32 for 0, and a product with a weight near it is.
WEIGHTS = st.just(0.0) | st.floats(2.0**-40, 3, width=32)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), WEIGHTS), max_size=4), min_size=1, max_size=5),
    st.sampled_from(["sum", "mean", "sqrtn"]),
    st.booleans(),
)
def test_ragged_sparse_and_reference_agree(reference, bags, combiner, weighted):
    rows = [[identifier for identifier, _ in bag] for bag in bags]
    weights = [[weight for _, weight in bag] for bag in bags] if weighted else None
    layer = _layer(v=combiner)
    wanted, _ = reference.combined(layer.table("video").numpy().astype(float), rows, weights, combiner)
    ids = tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1)
    forms = [ids, ids.to_sparse()]
    if weighted:
        ragged_weights = tf.ragged.constant(weights, dtype=tf.float32, ragged_rank=1)
        forms = [(ids, ragged_weights), (ids.to_sparse(), ragged_weights.to_sparse())]
    for form in forms:
        assert layer({"v": form})["v"].numpy() == pytest.approx(wanted, abs=1e-5)


def test_dense_forms():
    layer = _layer(one="mean", bag="sum", sequence=None)
    table = layer.table("video").numpy()
    outputs = layer(
        {
            "one": np.array([1, 2]),
            "bag": np.array([[1, 2], [3, 3]], np.uint8),
            "sequence": np.array([[1, 2, 3], [4, 5, 6]]),
        }
    )
    assert np.array_equal(outputs["one"], table[[1, 2]])
    assert outputs["bag"].numpy() == pytest.approx(np.stack([table[1] + table[2], 2 * table[3]]))
    assert np.array_equal(outputs["sequence"], table[[[1, 2, 3], [4, 5, 6]]])
    assert outputs["sequence"].shape == (2, 3, 4)


def test_without_a_combiner_ragged_stays_ragged():
    layer = _layer(v=None)
    ids = tf.ragged.constant([[1, 2], [], [3]], dtype=tf.int64)
    for form in (ids, ids.to_sparse()):
        output = layer({"v": form})["v"]
        assert output.row_lengths().numpy().tolist() == [2, 0, 1]
        assert np.array_equal(output.values, layer.table("video").numpy()[[1, 2, 3]])


def test_weights_get_their_gradient():
    layer = _layer(v="sum")
    weights = tf.Variable([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"v": (tf.constant([[1, 2]]), weights)})["v"])
    table = layer.table("video").numpy()
    gradient = tape.gradient(loss, weights)
    assert gradient.numpy() == pytest.approx(table[[1, 2]].sum(axis=1)[None])


def test_a_subset_of_features_and_an_unknown_one():
    layer = _layer(a="sum", b="mean")
    assert list(layer({"b": [1]})) == ["b"]
    with pytest.raises(ValueError, match=r"no feature \['c'\]; the layer has \['a', 'b'\]"):
        layer({"c": [1]})


@pytest.mark.parametrize("ids", [[10], [-1]])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_id_outside_its_vocabulary_names_the_feature(ids, compiled):
    layer = _layer(watched="sum")
    call = tf.function(layer) if compiled else layer
    with pytest.raises(tf.errors.InvalidArgumentError, match="feature watched: ids outside its vocabulary, 0 to 9"):
        call({"watched": tf.constant(ids)})


def test_ids_that_are_not_integers_and_weights_without_a_combiner():
    with pytest.raises(TypeError, match="'v': ids are float32; an integer dtype is wanted"):
        _layer(v="sum")({"v": tf.constant([1.0])})
    with pytest.raises(ValueError, match="per-sample weights need a combiner"):
        _layer(v=None)({"v": ([[1]], [[1.0]])})
    with pytest.raises(ValueError, match="combiner is 'max'"):
        FeatureConfig(TABLE, "max")
    with pytest.raises(ValueError, match="two different tables are named 'video'"):
        ShardedEmbedding({"a": FeatureConfig(TABLE), "b": FeatureConfig(TableConfig("video", 11, 4))})
    with pytest.raises(TypeError, match="optimizer is Adam"):
        TableConfig("t", 1, 1, keras.optimizers.Adam())


def _gradient(layer, trainable=True, training=True):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"v": tf.constant([1, 1, 2])}, training=training)["v"])
    return tape.gradient(loss, layer.trainable_variables if trainable else [])


@pytest.mark.parametrize("training", [True, None])
def test_the_backward_pass_updates_the_rows_looked_up(training):
    layer = _layer(v="sum")
    before = layer.table("video").numpy()
    gradients = _gradient(layer, training=training)
    assert [g.numpy() for g in gradients] == [0.0], "the trap's own gradient is 0"
    change = before - layer.table("video").numpy()
    wanted = np.zeros((10, 4))
    wanted[1], wanted[2] = 1.0, 0.5
    assert change == pytest.approx(wanted, abs=1e-6)


def test_a_plain_call_changes_nothing():
    layer = _layer(v="sum")
    before = [variable.numpy() for variable in layer.weights]
    layer({"v": tf.constant([1, 2])})
    assert all(np.array_equal(a, b) for a, b in zip(before, layer.weights, strict=True))


def test_a_frozen_layer_stands_still():
    layer = _layer(v="sum")
    layer.trainable = False
    before = layer.table("video").numpy()
    with tf.GradientTape() as tape:
        tape.watch(layer.gradient_trap)
        loss = tf.reduce_sum(layer({"v": tf.constant([1])}, training=True)["v"])
    tape.gradient(loss, layer.gradient_trap)
    assert np.array_equal(layer.table("video"), before)


def test_two_backward_passes_are_an_error():
    layer = _layer(v="sum")
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_sum(layer({"v": tf.constant([1])})["v"])
    tape.gradient(loss, layer.trainable_variables)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a gradient was asked twice"):
        tape.gradient(loss, layer.trainable_variables)


def test_two_calls_in_one_step_are_an_error():
    layer = _layer(v="sum")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer({"v": tf.constant([1])})["v"]) + tf.reduce_sum(layer({"v": tf.constant([2])})["v"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="called twice in one step"):
        tape.gradient(loss, layer.trainable_variables)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_trap_that_is_not_differentiated_is_an_error_told_once(compiled):
    layer = _layer(v="sum")
    dense = tf.Variable(1.0)

    def step():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(dense)
            loss = dense * tf.reduce_sum(layer({"v": tf.constant([1])}, training=True)["v"])
        return tape.gradient(loss, [dense])

    step = tf.function(step) if compiled else step
    step()
    with pytest.raises(tf.errors.InvalidArgumentError, match="was never differentiated"):
        step()
    _gradient(layer)
    _gradient(layer)


def test_replicas_that_a_layer_was_not_made_for_are_refused():
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        code = (
            "from foundation.tf import tf\n"
            "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],"
            " [tf.config.LogicalDeviceConfiguration()] * 2)\n"
            "from embeddings import *\n"
            "layer = ShardedEmbedding({'a': FeatureConfig(TableConfig('t', 4, 2))})\n"
            "strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])\n"
            "strategy.run(lambda: layer({'a': tf.constant([1])}))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "cannot be used under MirroredStrategy with 2 replicas" in done.stderr


def test_a_learning_rate_schedule_counts_updates(reference):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.1])
    layer = ShardedEmbedding({"v": FeatureConfig(TableConfig("t", 4, 2, SGD(schedule)), "sum")})
    before = layer.table("t").numpy()
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer({"v": tf.constant([1])})["v"])
        tape.gradient(loss, layer.trainable_variables)
    assert (before - layer.table("t").numpy())[1] == pytest.approx([0.5 + 0.5 + 0.1 + 0.1] * 2, abs=1e-6)


@pytest.mark.parametrize("optimizer", [kind(0.1) for kind in (SGD, Adagrad, RowWiseAdagrad, Adam, FTRL)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_restored_from_a_checkpoint_training_goes_on_bit_by_bit(tmp_path, optimizer, precision):
    def made():
        return ShardedEmbedding({"v": FeatureConfig(TableConfig("t", 10, 4, optimizer, precision=precision), "sum")})

    def train(layer, steps):
        for step in steps:
            ids = tf.constant(np.random.default_rng(step).integers(0, 10, 6))
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(layer({"v": ids}, training=True)["v"] - 1.0))
            tape.gradient(loss, layer.trainable_variables)

    undisturbed, first, second = made(), made(), made()
    train(undisturbed, range(20))
    train(first, range(11))
    path = tf.train.Checkpoint(layer=first).write(str(tmp_path / "c"))
    tf.train.Checkpoint(layer=second).read(path).assert_consumed()
    train(second, range(11, 20))
    for one, other in zip(undisturbed.weights, second.weights, strict=True):
        assert np.array_equal(one, other)


def test_a_model_with_the_layer_is_saved_and_loaded_by_keras_and_by_plain_tensorflow(tmp_path):
    inputs = {"v": keras.Input((3,), dtype=tf.int64, name="v")}
    outputs = keras.layers.Dense(1)(_layer(v="mean")(inputs)["v"])
    model = keras.Model(inputs, outputs)
    ids = {"v": np.array([[1, 2, 3], [4, 4, 4]])}
    wanted = model.predict(ids, verbose=0)
    model.save(tmp_path / "model.keras")
    assert np.array_equal(keras.models.load_model(tmp_path / "model.keras").predict(ids, verbose=0), wanted)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "(output,) = serve(v=tf.constant([[1, 2, 3], [4, 4, 4]], tf.int64)).values()\n"
        "assert not any(name.startswith('embeddings') for name in sys.modules)\n"
        "print(output.numpy().tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "saved")], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    assert np.array(json.loads(done.stdout)) == pytest.approx(wanted, abs=1e-6)


def test_mixed_float16_without_the_loss_scale_is_an_error():
    keras.mixed_precision.set_global_policy("mixed_float16")
    layer = _layer(v="sum")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer({"v": tf.constant([1])}, training=True)["v"], tf.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"add sum\(model.losses\)"):
        tape.gradient(loss, layer.trainable_variables)


@pytest.mark.parametrize(
    ("ids", "weights"),
    [
        (tf.ragged.constant([[1, 2], [3]]), tf.ragged.constant([[1.0], [2.0, 3.0]])),
        (tf.sparse.from_dense([[1, 2], [3, 0]]), tf.sparse.from_dense([[1.0, 2.0], [0.0, 3.0]])),
        (tf.constant([[1, 2]]), tf.constant([[1.0], [2.0]])),
        (tf.constant([[1, 2]]), tf.constant([[1.0]])),
    ],
)
def test_weights_of_another_shape_than_the_ids_are_an_error(ids, weights):
    with pytest.raises(tf.errors.InvalidArgumentError, match="feature v: weights of the same shape as the ids"):
        _layer(v="mean")({"v": (ids, weights)})


def test_a_config_holds_each_shared_table_once():
    table = TableConfig("t", 5, 2, SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))
    layer = ShardedEmbedding({"a": FeatureConfig(table, "sum"), "b": FeatureConfig(table, None)})
    copy = ShardedEmbedding.from_config(json.loads(json.dumps(layer.get_config())))
    assert list(copy.tables) == ["t"]
    assert [copy.features[name].combiner for name in ("a", "b")] == ["sum", None]
    assert copy.get_config() == layer.get_config()


def test_initial_values_are_in_the_range_of_keras_unless_told():
    def largest(**options):
        return abs(ShardedEmbedding({"a": FeatureConfig(TableConfig("t", 999, 8, **options))}).table("t").numpy()).max()

    assert largest() == largest(initializer_scale=None) == pytest.approx(0.05, rel=1e-2)
    assert largest(initializer_scale=0.0) == 0.0
    with pytest.raises(ValueError, match="seed fits in 64 bits"):
        TableConfig("t", 1, 1, seed=2**63)
