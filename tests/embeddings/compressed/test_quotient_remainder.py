"""QuotientRemainderEmbedding against plain numpy: lookups, the fused step, initial values, bad input, saving."""

import json

import numpy as np
import pytest

from embeddings import SGD, FeatureConfig, TableConfig
from embeddings.compressed import QuotientRemainderEmbedding
from foundation.tf import keras, tf

TABLE = TableConfig("video", vocabulary_size=12, dim=4, optimizer=SGD(0.5), initializer_scale=1.0)
M = 5
OPERATIONS = ["multiply", "add", "concat"]


def _layer(operation, **combiners):
    features = {name: FeatureConfig(TABLE, combiner) for name, combiner in combiners.items()}
    return QuotientRemainderEmbedding(features, M, operation)


def _tables(layer):
    return tuple(layer.table(f"video/{part}").numpy().astype(float) for part in ("quotient", "remainder"))


def _composed(quotients, remainders, operation):
    """[12, 4]: the table that is not held."""
    ids = np.arange(12)
    q, r = quotients[ids // M], remainders[ids % M]
    return {"multiply": lambda: q * r, "add": lambda: q + r, "concat": lambda: np.hstack([q, r])}[operation]()


def _gradients(quotients, remainders, operation, identifier, upstream):
    """Of one lookup's two rows."""
    if operation == "concat":
        return np.split(upstream, 2)
    if operation == "add":
        return upstream, upstream
    return upstream * remainders[identifier % M], upstream * quotients[identifier // M]


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["ragged", "sparse", "dense"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_step_equals_the_reference(reference, forms, step, operation, form, weighted, combiner):
    rows = forms.bags[form]
    weights = forms.weights_of(rows) if weighted else None
    layer = _layer(operation, v=combiner)
    quotients, remainders = _tables(layer)
    wanted, shares = reference.combined(_composed(quotients, remainders, operation), rows, weights, combiner)
    upstream = np.random.default_rng(0).normal(size=wanted.shape).astype(np.float32)
    of_quotients, of_remainders = np.zeros_like(quotients), np.zeros_like(remainders)
    for place, ids in enumerate(rows):
        for identifier, share in zip(ids, shares[place], strict=True):
            one, other = _gradients(quotients, remainders, operation, identifier, share * upstream[place])
            of_quotients[identifier // M] += one
            of_remainders[identifier % M] += other
    outputs, _ = step(layer, {"v": forms.made(form, rows, weights)}, {"v": upstream})
    assert outputs["v"].numpy() == pytest.approx(wanted, abs=1e-5)
    for after, before, gradient in zip(
        _tables(layer), (quotients, remainders), (of_quotients, of_remainders), strict=True
    ):
        assert after == pytest.approx(before - 0.5 * gradient, abs=1e-5)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_vector_per_id_and_one_id_per_example(operation):
    layer = _layer(operation, sequence=None, one="mean")
    composed = _composed(*_tables(layer), operation)
    ragged = tf.ragged.constant([[1, 11], [], [3]], tf.int32)
    for value in (ragged, ragged.to_sparse()):
        output = layer({"sequence": value})["sequence"]
        assert output.row_lengths().numpy().tolist() == [2, 0, 1]
        assert output.values.numpy() == pytest.approx(composed[[1, 11, 3]])
    outputs = layer({"sequence": np.array([[1, 2, 3], [4, 5, 6]]), "one": np.array([11, 0], np.uint8)})
    assert outputs["sequence"].numpy() == pytest.approx(composed[[[1, 2, 3], [4, 5, 6]]])
    assert outputs["sequence"].shape == (2, 3, 4)
    assert outputs["one"].numpy() == pytest.approx(composed[[11, 0]])
    weighted = layer({"one": (np.array([11, 0]), np.array([2.0, 0.0]))})["one"].numpy()
    assert weighted == pytest.approx(np.stack([composed[11], np.zeros(4)]))


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_weights_get_their_gradient(combiner):
    ids = tf.ragged.constant([[1, 11], [3, 4], [], [5]], tf.int64)
    gradients = []
    for operation in ("multiply", "add"):
        layer = _layer(operation, v=combiner)
        weights = tf.Variable([1.0, 2.0, 0.5, 0.25, 0.0])
        vectors = tf.constant(_composed(*_tables(layer), operation), tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            output = layer({"v": (ids, ids.with_values(tf.identity(weights)))})["v"]
            rows = tf.gather(vectors, ids.values) * weights[:, None]
            sums = tf.math.unsorted_segment_sum(rows, ids.value_rowids(), 4)[:2]
            first, second = weights[:2], weights[2:4]
            norm = {
                "sum": lambda w: tf.constant(1.0),
                "mean": tf.reduce_sum,
                "sqrtn": lambda w: tf.sqrt(tf.reduce_sum(w**2)),
            }[combiner]
            plain = tf.reduce_sum(sums[0] / norm(first)) + tf.reduce_sum(sums[1] / norm(second))
            loss = tf.reduce_sum(output)
        got = tape.gradient(loss, weights).numpy()
        assert got[:4] == pytest.approx(tape.gradient(plain, weights).numpy()[:4], abs=1e-5)
        gradients.append(got[4])
    assert np.isfinite(gradients).all(), "a bag without weight has no slope, rather than NaN"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_vector_begins_with_the_variance_of_a_plain_table(operation):
    table = TableConfig("t", vocabulary_size=10**6, dim=32, initializer_scale=0.3)
    layer = QuotientRemainderEmbedding({"a": FeatureConfig(table, None)}, 1000, operation)
    ids = np.random.default_rng(0).integers(0, 10**6, 5000)
    vectors = layer({"a": ids})["a"].numpy()
    assert vectors.shape == (5000, 32)
    assert vectors.var() == pytest.approx(0.3**2 / 3, rel=0.05)
    assert abs(vectors.mean()) < 0.01


def test_what_is_held():
    table = TableConfig("t", vocabulary_size=1_000_001, dim=8)
    layer = QuotientRemainderEmbedding({"a": FeatureConfig(table)}, {"t": 1000})
    assert {name: rows.shape for name, rows in layer.tables.items()} == {
        "t/quotient": (1001, 8),
        "t/remainder": (1000, 8),
    }


@pytest.mark.parametrize("ids", [[12], [-1], [14]])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_id_outside_its_vocabulary_names_the_feature(ids, compiled):
    layer = _layer("multiply", watched="sum")
    call = tf.function(layer) if compiled else layer
    with pytest.raises(tf.errors.InvalidArgumentError, match="feature watched: ids outside its vocabulary, 0 to 11"):
        call({"watched": tf.constant(ids)})


def test_bad_sizes_and_inputs_are_named():
    features = {"v": FeatureConfig(TABLE)}
    for buckets in (0, 13):
        with pytest.raises(ValueError, match=f"'video': buckets are {buckets}; 1 to vocabulary_size, 12, are wanted"):
            QuotientRemainderEmbedding(features, buckets)
    with pytest.raises(ValueError, match=r"given for the tables \['vidoe'\]; the features' tables are \['video'\]"):
        QuotientRemainderEmbedding(features, {"vidoe": 3})
    with pytest.raises(ValueError, match="operation is 'divide'; known: multiply, add, concat"):
        QuotientRemainderEmbedding(features, 3, "divide")
    with pytest.raises(ValueError, match="dim is 3; a concatenation of two halves wants an even one"):
        QuotientRemainderEmbedding({"v": FeatureConfig(TableConfig("t", 9, 3))}, 3, "concat")
    with pytest.raises(ValueError, match="initializer_scale is 0; a product of zeros has no gradient"):
        QuotientRemainderEmbedding({"v": FeatureConfig(TableConfig("t", 9, 3, initializer_scale=0.0))}, 3)
    with pytest.raises(ValueError, match="vocabulary_size is None; a compressed embedding's tables are static"):
        QuotientRemainderEmbedding({"v": FeatureConfig(TableConfig("t", None, 4))}, 3)
    with pytest.raises(ValueError, match="two different tables are named 'video'"):
        QuotientRemainderEmbedding({**features, "w": FeatureConfig(TableConfig("video", 12, 8))}, 3)
    with pytest.raises(TypeError, match="'v': ids are float32; an integer dtype is wanted"):
        _layer("multiply", v="sum")({"v": tf.constant([1.0])})
    for operation in OPERATIONS:
        with pytest.raises(ValueError, match=r"feature 'v.*weights need a combiner"):
            _layer(operation, v=None)({"v": ([[1]], [[1.0]])})
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"feature v.*weights must be finite"):
            _layer(operation, v="sum")({"v": ([[1]], [[float("inf")]])})
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"feature v.*weights of the same shape as the ids"):
            _layer(operation, v="sum")({"v": ([[1, 2]], [[1.0]])})


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_config_is_plain_and_makes_the_same_layer(operation):
    layer = _layer(operation, a="sum", b=None)
    copy = QuotientRemainderEmbedding.from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.get_config() == layer.get_config()
    for name, rows in layer.tables.items():
        assert np.array_equal(copy.table(name), rows)


def test_a_model_is_fitted_saved_and_loaded(saved_and_loaded, tmp_path):
    inputs = {"history": np.array([[1, 2], [3, 4], [5, 6], [7, 11]])}
    model, _ = saved_and_loaded(_layer("multiply", history="mean"), inputs, 4, tmp_path)
    tf.saved_model.save(model, str(tmp_path / "model"))
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    (output,) = served(history=tf.constant(inputs["history"])).values()
    assert output.numpy() == pytest.approx(model.predict(inputs, verbose=0), abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_it_runs_in_litert(run_in_litert):
    layer = _layer("multiply", v="mean")
    wanted = _composed(*_tables(layer), "multiply")[[0, 11, 3]]
    assert run_in_litert(layer, "v", [0, 11, 3]) == pytest.approx(wanted, abs=1e-6)


def test_mixed_float16_takes_the_same_step():
    ids, target = {"v": np.array([[1, 2], [11, 3]])}, np.ones((2, 4), np.float32)
    tables = []
    try:
        for policy in ("float32", "mixed_float16"):
            keras.mixed_precision.set_global_policy(policy)
            layer = _layer("multiply", v="mean")
            inputs = {"v": keras.Input((2,), dtype=tf.int64)}
            model = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(layer(inputs)["v"]))
            model.compile("sgd", "mse")
            model.fit(ids, target, epochs=3, verbose=0)
            tables.append(np.concatenate(_tables(layer)))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert tables[1] == pytest.approx(tables[0], abs=2e-3)
    assert not np.array_equal(tables[0], np.concatenate(_tables(_layer("multiply", v="mean"))))
