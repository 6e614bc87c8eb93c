"""Inputs in every form, and one step of training on a given upstream gradient."""

from types import SimpleNamespace

import numpy as np
import pytest

from embeddings.kernels import stock_only
from foundation.tf import keras, tf

RAGGED = [[1, 10], [], [3, 3, 11], [0]]
DENSE = [[1, 10, 4], [3, 3, 11]]
# in each form: an empty bag, an id twice, a weight of 0
BAGS = {"ragged": RAGGED, "sparse": RAGGED, "dense": DENSE}


def _weights_of(rows):
    flat = iter(np.linspace(0.0, 2.0, sum(len(row) for row in rows)))
    return [[float(next(flat)) for _ in row] for row in rows]


def _made(form, rows, weights=None):
    """A feature's input."""

    def of(values, dtype):
        if form == "dense":
            return tf.constant(values, dtype)
        ragged = tf.ragged.constant(values, dtype, ragged_rank=1)
        if form == "ragged":
            return ragged
        # not `to_sparse`: it would be one with the weight of 0 left out
        indices = tf.stack([ragged.value_rowids(), tf.concat([tf.range(n) for n in ragged.row_lengths()], 0)], axis=1)
        return tf.SparseTensor(indices, ragged.values, ragged.bounding_shape())

    ids = of(rows, tf.int64)
    return ids if weights is None else (ids, of(weights, tf.float32))


def _step(layer, inputs, upstream):
    """One step on sum(output * upstream); the outputs, and the gradients of the weights but the trap's, by name."""
    with tf.GradientTape() as tape:
        outputs = layer(inputs, training=True)
        loss = tf.add_n([tf.reduce_sum(outputs[name] * upstream[name]) for name in outputs])
    weights = layer.trainable_weights
    gradients = dict(zip([weight.name for weight in weights], tape.gradient(loss, weights), strict=True))
    assert float(gradients.pop("gradient_trap:0")) == 0.0
    return outputs, {name: gradient.numpy() for name, gradient in gradients.items()}


def _saved_and_loaded(layer, inputs, width, folder):
    """Fits a model of the layer on `inputs` (of 4 rows each), saves it and loads it; and exports the layer with the
    model's optimizer. Returns the model and its copy."""
    specs = {name: keras.Input(value.shape[1:], dtype=tf.int64, name=name) for name, value in inputs.items()}
    outputs = layer(specs)
    joined = tf.concat([outputs[name] for name in outputs], axis=-1)
    assert joined.shape[-1] == width
    model = keras.Model(specs, keras.layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    before = {name: rows.numpy() for name, rows in layer.tables.items()}
    model.fit(inputs, np.ones((4, 1)), epochs=2, batch_size=2, verbose=0)
    for name, rows in layer.tables.items():
        assert not np.array_equal(rows.numpy(), before[name]), f"{name} is trained"
    model.save(folder / "model.keras")
    copy = keras.models.load_model(folder / "model.keras")
    assert np.array_equal(copy.predict(inputs, verbose=0), model.predict(inputs, verbose=0))

    module = tf.Module()
    module.layer = layer
    module.optimizer = model.optimizer  # its slots are named after the layer's weights, and names can be refused
    module.vectors = tf.function(layer)
    signature = {name: tf.TensorSpec((None, *value.shape[1:]), tf.int64) for name, value in inputs.items()}
    with stock_only():
        module.vectors.get_concrete_function(signature)
        tf.saved_model.save(module, str(folder / "layer"))
    assert b"Headrace" not in (folder / "layer" / "saved_model.pb").read_bytes(), "no op that TensorFlow does not know"
    given = {name: tf.constant(value) for name, value in inputs.items()}
    loaded = tf.saved_model.load(str(folder / "layer"))
    exported, wanted = loaded.vectors(given), layer(given)
    for name in inputs:
        assert exported[name].numpy() == pytest.approx(wanted[name].numpy(), abs=1e-6)
    return model, copy


def _run_in_litert(layer, feature, ids):
    """What LiteRT's own ops give for one id per example."""
    signature = [tf.TensorSpec([len(ids)], tf.int64)]
    with stock_only():
        traced = tf.function(lambda given: layer({feature: given})[feature], input_signature=signature)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()], layer)
        content = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.array(ids))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.fixture(scope="session")
def run_in_litert():
    return _run_in_litert


@pytest.fixture(scope="session")
def forms():
    return SimpleNamespace(bags=BAGS, weights_of=_weights_of, made=_made)


@pytest.fixture(scope="session")
def step():
    return _step


@pytest.fixture(scope="session")
def saved_and_loaded():
    return _saved_and_loaded
