"""A layer over the replicas of one process, and the same in one piece: `replicas_program.py FOLDER`, under
HEADRACE_DEVICES, writes what both gave to FOLDER/found.npz."""

import sys
from pathlib import Path

import numpy as np

from embeddings import Adagrad, FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.kernels import stock_only
from foundation.tf import keras, tf
from strategies import create_strategy

ITEMS, TAGS, EXAMPLES, BATCH = 5_000, 50, 96, 32


def fitted(scope, functional):
    """Losses, predictions and rows of a model that Keras has fitted."""
    rng = np.random.default_rng(0)
    inputs = {"item": rng.integers(0, ITEMS, EXAMPLES), "tags": rng.integers(0, TAGS, (EXAMPLES, 3))}
    labels = rng.normal(size=EXAMPLES).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(BATCH)
    with scope:
        layer = _layer()
        dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        model = _functional(layer, dense) if functional else _Subclassed(layer, dense)
        model.compile(keras.optimizers.Adam(0.01), "mse", steps_per_execution=2)
    history = model.fit(data, epochs=2, verbose=0)
    return {
        "losses": history.history["loss"],
        "evaluated": model.evaluate(data, verbose=0),
        "predicted": model.predict(data, verbose=0),
        "dense": dense.kernel.numpy(),
        "rows": layer({"item": tf.range(ITEMS)})["item"],  # outside what the strategy runs
    }


class _Subclassed(keras.Model):
    def __init__(self, layer, dense):
        super().__init__()
        self._layer, self._dense = layer, dense

    def call(self, inputs, training=None):
        vectors = self._layer(inputs, training=training)
        return self._dense(tf.concat([vectors["item"], vectors["tags"]], 1))


def _functional(layer, dense):
    inputs = {
        "item": keras.Input((), dtype=tf.int64, name="item"),
        "tags": keras.Input((3,), dtype=tf.int64, name="tags"),
    }
    vectors = layer(inputs)
    return keras.Model(inputs, dense(tf.concat([vectors["item"], vectors["tags"]], 1)))


def looked_up(scope):
    """Every kind of input, outside what the strategy runs: eagerly, traced, and traced to be exported."""
    with scope:
        layer = _layer(dynamic=True)
    inputs = {
        "item": tf.constant([3, 1, 3]),
        "tags": (tf.ragged.constant([[1, 2], [], [7]]), tf.ragged.constant([[0.5, 1.0], [], [2.0]])),
        "each": tf.constant([[1, 2], [3, 4]]),
        "new": tf.constant([5, 2**40]),
    }
    static = {name: value for name, value in inputs.items() if name != "new"}
    with stock_only():
        exported = tf.function(lambda: layer(static)).get_concrete_function()
    ours = [node.op for node in exported.graph.as_graph_def().node if node.op.startswith("Headrace")]
    return {
        "eager": layer(inputs),
        "traced": tf.function(layer)(inputs),
        "exported": exported(),
        "ops of ours": len(ours),
        "tables": sorted(layer.tables),
    }


def errors(strategy):
    alone = _layer()
    with strategy.scope():
        layer = _layer()
    asked = {"item": tf.constant([1]), "tags": tf.constant([[1]])}

    def message(call):
        try:
            call()
        except (tf.errors.InvalidArgumentError, ValueError, RuntimeError) as error:
            return str(error)
        return "none"

    def gradient(layer, training, times=1):
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_sum(layer(asked, training=training)["item"])
        for _ in range(times):
            tape.gradient(loss, layer.gradient_trap)
        return loss

    def unread():
        layer(asked, training=True)
        return tf.constant(0.0)

    def step(run, *arguments):
        return tf.function(lambda: strategy.run(run, *arguments))

    sound = step(gradient, layer, True)

    def half():
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            with strategy.scope():
                _layer()
        finally:
            keras.mixed_precision.set_global_policy("float32")

    return {
        "training outside": message(lambda: layer(asked, training=True)),
        "gradient outside": message(lambda: gradient(layer, False)),
        "of one rank": message(step(gradient, alone, True)),
        "sound": message(sound),
        "twice": message(step(gradient, layer, True, 2)),
        "unread": message(step(unread)),
        "after unread": message(sound),
        "sound again": message(sound),
        "unknown id": message(lambda: layer({"item": tf.constant([ITEMS])})),
        "float16": message(half),
    }


def _layer(dynamic=False):
    items = TableConfig("items", ITEMS, 8, RowWiseAdagrad(0.1))
    tags = TableConfig("tags", TAGS, 4, Adagrad(0.2))
    more = {"new": FeatureConfig(TableConfig("new", None, 4))} if dynamic else {}
    return ShardedEmbedding(
        {"item": FeatureConfig(items), "tags": FeatureConfig(tags, "mean"), "each": FeatureConfig(items, None), **more}
    )


def _flat(value, name):
    if not isinstance(value, dict):
        return {name: np.asarray(value)}
    return {key: array for inner, each in value.items() for key, array in _flat(each, f"{name}/{inner}").items()}


def main():
    strategy = create_strategy("mirrored")
    found = _flat(errors(strategy), "errors")
    for name, place in (("alone", create_strategy("single")), ("together", strategy)):
        found |= _flat(fitted(place.scope(), functional=False), f"{name}/subclassed")
        found |= _flat(looked_up(place.scope()), f"{name}/looked_up")
    found |= _flat(fitted(strategy.scope(), functional=True), "together/functional")
    np.savez(Path(sys.argv[1]) / "found.npz", **found)


if __name__ == "__main__":
    main()
