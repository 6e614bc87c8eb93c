"""One tower: its inputs side by side, through a linear path and a hidden path, to one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundation.draws import dropout, uniform
from foundation.tf import keras, tf
from inputs.entities import FeatureSpec
from retrieval.config import RetrievalConfig
from retrieval.normalise import unit


class Tower(keras.layers.Layer):
    """[B, width] -> [B, dim]: a linear map plus a ReLU network, so that little data learns as a factorisation does.

    Every variable exists after construction; initial values follow `seed`.
    """

    def __init__(self, name: str, width: int, units: Sequence[int], dim: int, dropout: float, seed: int) -> None:
        super().__init__(name=name)
        self._dropout, self._seed = dropout, seed
        self._linear = _dense(width, dim, seed)
        self._units = tuple(units)
        sizes = [width, *units]
        self._hidden = [_dense(w, u, seed + 1 + i) for i, (w, u) in enumerate(zip(sizes, units, strict=False))]
        self._last = _dense(sizes[-1], dim, seed + 1 + len(units)) if units else None

    def draws(self, rows: tf.Tensor, step: tf.Tensor, first_row: tf.Tensor | int = 0) -> list[tf.Tensor]:
        """What decides dropout in a training step, [rows, units] of each hidden layer; [] without dropout. step: []
        int64, seeds it. first_row: [] int64, of these rows among the global batch's."""
        if not self._dropout:
            return []
        seeds = [self._seed + 7919 * depth for depth in range(len(self._units))]
        return [uniform(rows, width, first_row, step, seed) for width, seed in zip(self._units, seeds, strict=True)]

    def call(self, inputs: tf.Tensor, draws: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """draws: in training, see `draws`."""
        outputs = self._linear(inputs)
        if self._last is None:
            return outputs
        hidden = inputs
        for depth, layer in enumerate(self._hidden):
            hidden = tf.nn.relu(layer(hidden))
            if draws:
                hidden = dropout(hidden, self._dropout, draws[depth])
        return outputs + self._last(hidden)


class Identity(keras.layers.Layer):
    """[B, width] -> [B, width]: the vector is its inputs. Used as a `Tower`."""

    def draws(self, rows: tf.Tensor, step: tf.Tensor, first_row: tf.Tensor | int = 0) -> list[tf.Tensor]:
        return []

    def call(self, inputs: tf.Tensor, draws: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        return inputs


def _dense(width: int, units: int, seed: int) -> keras.layers.Dense:
    layer = keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=seed))
    layer.build((None, width))
    return layer


def width_of(features: Mapping[str, FeatureSpec], embedding_dim: int) -> int:
    """Width of `side_by_side` for these inputs."""
    return sum(1 if spec.kind == "number" else embedding_dim for spec in features.values())


def side_by_side(
    features: Mapping[str, FeatureSpec], activations: Mapping[str, tf.Tensor], inputs: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """[B, width]: looked-up vectors and numbers, in the order of `features`."""
    parts = [
        tf.cast(inputs[name], tf.float32)[:, tf.newaxis] if spec.kind == "number" else activations[name]
        for name, spec in features.items()
    ]
    return tf.concat(parts, axis=1)


def item_tower_of(config: RetrievalConfig, width: int, seed: int) -> Tower | Identity:
    """The candidate tower of a model. width: of its inputs side by side."""
    if config.tower == "identity":
        return Identity(name="item_tower")
    return Tower("item_tower", width, config.units, config.dim, config.dropout, seed + 2_000)


def item_vectors(
    config: RetrievalConfig,
    tower: Tower | Identity,
    features: Mapping[str, FeatureSpec],
    activations: Mapping[str, tf.Tensor],
    inputs: Mapping[str, tf.Tensor],
    draws: Sequence[tf.Tensor] = (),
) -> tf.Tensor:
    """[B, dim] candidate vectors. activations, inputs: see `side_by_side`; draws: see `Tower.call`."""
    vectors = tower(side_by_side(features, activations, inputs), draws)
    return unit(vectors, config.tower == "mlp") if config.normalise else vectors
