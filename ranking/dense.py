"""Dense layers of which every variable exists after construction, with initial values that follow a seed."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.tf import keras, tf


def dense(width: int, units: int, seed: int, relu: bool = False, bias: float = 0.0) -> keras.layers.Dense:
    """A built Dense layer: He initial weights (He et al., ICCV 2015) before a ReLU, Glorot's otherwise."""
    kind = keras.initializers.HeUniform if relu else keras.initializers.GlorotUniform
    layer = keras.layers.Dense(
        units,
        activation="relu" if relu else None,
        kernel_initializer=kind(seed=seed),
        bias_initializer=keras.initializers.Constant(bias),
    )
    layer.build((None, width))
    return layer


class MLP(keras.layers.Layer):
    """[R, width] -> [R, outputs]: ReLU hidden layers, then a linear one with initial bias `bias`."""

    def __init__(
        self, width: int, hidden: Sequence[int], outputs: int, seed: int, name: str, bias: float = 0.0
    ) -> None:
        super().__init__(name=name)
        sizes = [width, *hidden]
        self._layers = [dense(sizes[i], sizes[i + 1], seed + i, relu=True) for i in range(len(hidden))]
        self._layers.append(dense(sizes[-1], outputs, seed + len(hidden), bias=bias))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        for layer in self._layers:
            inputs = layer(inputs)
        return inputs


class ListDense(keras.layers.Layer):
    """A dense layer over a list's query beside each of its rows, [query, row] W + b, with the query's part of the
    product taken once a list: a thousand candidates of one user cost it once.

    seed: of the initial weights, He's before a ReLU, Glorot's otherwise. The fans are those of the joined input.
    """

    def __init__(self, query_width: int, row_width: int, units: int, seed: int, name: str, relu: bool = False) -> None:
        super().__init__(name=name)
        width = query_width + row_width
        limit = (6.0 / width) ** 0.5 if relu else (6.0 / (width + units)) ** 0.5
        self._query_kernel = self._kernel("query_kernel", (query_width, units), limit, seed)
        self._row_kernel = self._kernel("row_kernel", (row_width, units), limit, seed + 1)
        self._bias = self.add_weight(name="bias", shape=(units,), initializer="zeros")

    def _kernel(self, name: str, shape: tuple[int, int], limit: float, seed: int) -> tf.Variable:
        initializer = keras.initializers.RandomUniform(-limit, limit, seed=seed)
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def call(self, query: tf.Tensor, rows: tf.Tensor, list_of_row: tf.Tensor) -> tf.Tensor:
        """query: [L, query_width]; rows: [R, row_width]; list_of_row: [R] int64. Returns [R, units]."""
        of_query = tf.gather(tf.matmul(query, self._query_kernel), list_of_row)
        return of_query + tf.matmul(rows, self._row_kernel) + self._bias
