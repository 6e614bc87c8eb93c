"""What a training remembers from step to step beside its weights."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.tf import keras, tf


def state_of(
    layer: keras.layers.Layer, name: str, shape: Sequence[int], dtype: tf.DType, value: float = 0
) -> tf.Variable:
    """A variable of the layer that no optimizer sees and every checkpoint holds. Every rank, and every replica of a
    process, gives it the same."""
    return layer.add_weight(
        name=name,
        shape=shape,
        dtype=dtype,
        initializer=keras.initializers.Constant(value),
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        experimental_autocast=False,
    )
