"""Multi-gate mixture-of-experts: hidden layers shared by the objectives, mixed anew for each."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.tf import keras, tf
from ranking.dense import ListDense


class MixtureOfExperts(keras.layers.Layer):
    """MMoE (Ma et al., KDD 2018, eq. 6-7): f_t(x) = sum over experts e of softmax(W_t x)_e * expert_e(x).

    The experts are ReLU networks with layers `units`, computed side by side; each of `tasks` objectives has a linear
    gate over them.
    """

    def __init__(
        self, query_width: int, row_width: int, experts: int, units: Sequence[int], tasks: int, seed: int
    ) -> None:
        super().__init__(name="experts")
        self._experts, self._units, self._tasks = experts, tuple(units), tasks
        self._first = ListDense(query_width, row_width, experts * units[0], seed, "first", relu=True)
        self._gates = ListDense(query_width, row_width, tasks * experts, seed + 2, "gates")
        self._kernels, self._biases = [], []
        for depth in range(1, len(units)):
            limit = (6.0 / units[depth - 1]) ** 0.5  # He et al., ICCV 2015
            self._kernels.append(
                self.add_weight(
                    name=f"kernel_{depth}",
                    shape=(experts, units[depth - 1], units[depth]),
                    initializer=keras.initializers.RandomUniform(-limit, limit, seed=seed + 3 + depth),
                )
            )
            self._biases.append(
                self.add_weight(name=f"bias_{depth}", shape=(experts, units[depth]), initializer="zeros")
            )

    def call(self, query: tf.Tensor, rows: tf.Tensor, list_of_row: tf.Tensor) -> tf.Tensor:
        """query: [L, query_width]; rows: [R, row_width]; list_of_row: [R]. Returns [R, tasks, units[-1]]."""
        hidden = tf.nn.relu(self._first(query, rows, list_of_row))
        hidden = tf.reshape(hidden, [-1, self._experts, self._units[0]])
        for kernel, bias in zip(self._kernels, self._biases, strict=True):
            hidden = tf.nn.relu(tf.einsum("reu,euv->rev", hidden, kernel) + bias)
        gates = tf.reshape(self._gates(query, rows, list_of_row), [-1, self._tasks, self._experts])
        return tf.matmul(tf.nn.softmax(gates), hidden)
