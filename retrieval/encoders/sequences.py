"""Histories of different lengths as one dense tensor, the latest item last."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.tf import keras, tf


def latest(histories: Sequence[tf.RaggedTensor], length: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """(vectors [B, L, width], which are there [B, L] bool): the latest `length` items of each row (None: all), their
    features side by side, the latest in the last column, zeros before the oldest. L is at least 1.

    histories: ragged [B, None, dim], all of the same row lengths.
    """
    splits = histories[0].row_splits
    longest = tf.reduce_max(splits[1:] - splits[:-1])
    columns = tf.maximum(longest if length is None else tf.minimum(longest, length), 1)
    places = splits[1:, tf.newaxis] - columns + tf.range(columns)[tf.newaxis]
    there = places >= splits[:-1, tf.newaxis]
    values = tf.concat([each.flat_values for each in histories], axis=1)
    values = tf.pad(values, [[1, 0], [0, 0]])  # row 0: nothing
    return tf.gather(values, tf.where(there, places + 1, 0)), there


class Mapped(keras.layers.Layer):
    """[..., width] -> [..., units]: a linear map, or, where it is that wide already, nothing."""

    def __init__(self, name: str, width: int, units: int, seed: int) -> None:
        super().__init__(name=name)
        self._map = None if width == units else dense(width, units, seed)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        return vectors if self._map is None else self._map(vectors)


def dense(width: int, units: int, seed: int, **options: object) -> keras.layers.Dense:
    """A dense layer, built."""
    layer = keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=seed), **options)
    layer.build((None, width))
    return layer


def positions(owner: keras.layers.Layer, length: int, units: int, seed: int) -> tf.Variable:
    """[length, units] a learned vector for each place in a history; the last is the latest item's."""
    initializer = keras.initializers.RandomNormal(stddev=0.02, seed=seed)
    return owner.add_weight(name="positions", shape=(length, units), initializer=initializer)
