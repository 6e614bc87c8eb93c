"""Our sparse optimizers as a TPU's own.

What a TPU computes is taken from TensorFlow's optimization_parameters.proto and, for SparseCores, from
tensorflow/core/tpu/kernels/sparse_core_xla_ops.cc.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from embeddings.optimizers import FTRL, INITIAL_ACCUMULATOR, SGD, Adagrad, Adam, SparseOptimizer
from foundation.errors import UserError
from foundation.tf import tf

SLOTS = {"accumulator": "accumulators", "momentum": "momenta", "velocity": "velocities", "linear": "linears"}  # by ours
OFFERED = "A TPU trains a table by SGD, Adagrad, Adam or FTRL"


class TpuOptimizers:
    """Translates, and gives equal optimizers one translation: a TPU is the faster the fewer it must keep apart.

    The numbers are those of `embeddings.optimizers` but for one: Adagrad's 1e-7 under the root, which a TPU has no
    place for. A step is longer by less than 5e-7 of itself for that, for the accumulator begins at 0.1.
    """

    def __init__(self, updates: Callable[[], tf.Tensor], sparse_core: bool) -> None:
        """updates: gives [] int64, how many updates were made before the one under way. sparse_core: whether the TPU
        looks up by SparseCores (v5p, v6e), TensorFlow's embedding V2."""
        self._updates, self._sparse_core = updates, sparse_core
        self._translated: dict[SparseOptimizer, Any] = {}

    def of(self, table: str, optimizer: SparseOptimizer) -> Any:
        """The `tf.tpu.experimental.embedding` optimizer of a table.

        Raises:
          UserError: a TPU has none that does the same.
        """
        self._check(table, optimizer)
        if optimizer not in self._translated:
            self._translated[optimizer] = self._translate(table, optimizer)
        return self._translated[optimizer]

    def _check(self, table: str, optimizer: SparseOptimizer) -> None:
        if optimizer.weight_decay:
            raise UserError(
                f"table '{table}': a TPU's tables have no weight decay that is the same on all its generations.",
                "Take weight_decay=0, or another strategy.",
            )
        if optimizer.clipnorm is not None:
            raise UserError(
                f"table '{table}': a TPU cannot clip by the norm of a table's whole gradient.",
                "Take clipvalue in place of clipnorm, or another strategy.",
            )
        if optimizer.clipvalue is not None and self._sparse_core:
            raise UserError(
                f"table '{table}': this TPU's SparseCores do not clip gradients, and would say nothing.",
                "Take no clipvalue, or another strategy.",
            )

    def _translate(self, table: str, optimizer: SparseOptimizer) -> Any:
        theirs = tf.tpu.experimental.embedding
        options = {"learning_rate": self._learning_rate(optimizer), "clipvalue": optimizer.clipvalue}
        if isinstance(optimizer, SGD):
            return theirs.SGD(**options)
        if isinstance(optimizer, Adagrad):
            return theirs.Adagrad(initial_accumulator_value=INITIAL_ACCUMULATOR, **options)
        if isinstance(optimizer, Adam):
            return theirs.Adam(
                beta_1=optimizer.beta_1,
                beta_2=optimizer.beta_2,
                epsilon=optimizer.epsilon,
                lazy_adam=True,
                sum_inside_sqrt=False,
                **options,
            )
        if isinstance(optimizer, FTRL):
            return theirs.FTRL(
                l1_regularization_strength=optimizer.l1,
                l2_regularization_strength=optimizer.l2 / 2,  # it adds 2 * l2
                beta=optimizer.beta,
                initial_accumulator_value=INITIAL_ACCUMULATOR,
                **options,
            )
        raise UserError(
            f"table '{table}': its optimizer, {type(optimizer).__name__}, has no counterpart on a TPU.",
            f"{OFFERED}: name one in its TableConfig, or take another strategy.",
        )

    def _learning_rate(self, optimizer: SparseOptimizer) -> float | Callable[[], tf.Tensor]:
        """A number, or what a TPU calls each step."""
        scheduled = optimizer.learning_rate

        def rate() -> tf.Tensor:
            return tf.cast(scheduled(self._updates()) if callable(scheduled) else scheduled, tf.float32)

        if isinstance(optimizer, Adam):
            return lambda: rate() * _unbiased(optimizer, self._updates())
        return rate if callable(scheduled) else float(scheduled)


def _unbiased(optimizer: Adam, updates: tf.Tensor) -> tf.Tensor:
    """What corrects the bias of Adam's moments, [] float32: a TPU leaves that to its learning rate. In float32, for a
    TPU has no 64-bit floats: 1 - beta^t without its cancellation."""
    step = tf.cast(updates + 1, tf.float32)

    def one_minus_power(beta: float) -> tf.Tensor | float:
        return -tf.math.expm1(step * math.log(beta)) if beta else 1.0

    return tf.sqrt(one_minus_power(optimizer.beta_2)) / one_minus_power(optimizer.beta_1)
