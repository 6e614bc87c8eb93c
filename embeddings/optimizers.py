"""Sparse optimizers: what a table's backward pass does to the rows that were looked up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from foundation.tf import keras, tf

EPSILON = 1e-7  # under the root, as Keras has it
INITIAL_ACCUMULATOR = 0.1  # as Keras has it

LearningRate = Any  # a float, or a callable of the number of updates made, such as a keras LearningRateSchedule


@dataclass(frozen=True)
class SparseOptimizer(ABC):
    """Applies summed gradients of distinct rows to a table.

    learning_rate: a float, a keras.optimizers.schedules.LearningRateSchedule, or another callable of the number of
    updates made ([] int64). clipnorm: the largest norm that a table's whole gradient, summed over its features, keeps.
    clipvalue: the largest magnitude of any element. Clipping by the model's Keras optimizer does not reach the tables.
    """

    learning_rate: LearningRate = 0.01
    clipnorm: float | None = None
    clipvalue: float | None = None

    slots: ClassVar[Mapping[str, float]] = {}  # slot variable -> initial value

    def __post_init__(self) -> None:
        if self.clipnorm is not None and self.clipvalue is not None:
            raise ValueError("clipnorm and clipvalue exclude each other")

    @abstractmethod
    def slot_shape(self, vocabulary_size: int, dim: int) -> tuple[int, ...]:
        """Shape of each slot variable."""

    @abstractmethod
    def update(
        self, table: tf.Variable, slots: Mapping[str, tf.Variable], ids: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor
    ) -> None:
        """Takes one step on rows `ids` [u] int64 (distinct) with their gradient [u, dim] float32 and learning rate."""

    def apply(
        self,
        table: tf.Variable,
        slots: Mapping[str, tf.Variable],
        ids: tf.Tensor,
        gradient: tf.Tensor,
        updates: tf.Tensor,
    ) -> None:
        """Clips and steps. updates: [] int64, how many were made before."""
        if self.clipnorm is not None:
            gradient = tf.clip_by_norm(gradient, self.clipnorm)
        if self.clipvalue is not None:
            gradient = tf.clip_by_value(gradient, -self.clipvalue, self.clipvalue)
        self.update(table, slots, ids, gradient, self._rate(updates))

    def numbers(self, updates: tf.Tensor) -> tf.Tensor:
        """[4] float32, what a compiled kernel needs to know of a step (`TableStep` in kernels/native/update.cc)."""
        unlimited = float("inf")
        clips = [unlimited if clip is None else clip for clip in (self.clipvalue, self.clipnorm)]
        return tf.stack([self._rate(updates), EPSILON, *clips])

    def _rate(self, updates: tf.Tensor) -> tf.Tensor:
        """[] float32: the learning rate of the step after so many updates."""
        rate = self.learning_rate(updates) if callable(self.learning_rate) else self.learning_rate
        return tf.cast(rate, tf.float32)

    def document(self) -> dict[str, Any]:
        """As plain types, for a Keras config."""
        rate = self.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.optimizers.schedules.serialize(rate)
        return {
            "name": type(self).__name__,
            "learning_rate": rate,
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
        }


class SGD(SparseOptimizer):
    """row -= rate * g."""

    def slot_shape(self, vocabulary_size: int, dim: int) -> tuple[int, ...]:
        raise AssertionError("SGD has no slot")

    def update(self, table, slots, ids, gradient, rate) -> None:
        subtract(table, ids, rate * gradient)


class Adagrad(SparseOptimizer):
    """accumulator += g^2; row -= rate * g / sqrt(accumulator + epsilon) (Duchi, Hazan and Singer, JMLR 2011).

    The fused kernel ResourceSparseApplyAdagradV2 adds its epsilon outside the root, unlike Keras, and gains little: at
    8192 x 26 ids, dim 64, 1 M rows, on 2 cores, 158 ms against 199 for these ops with uniform ids, 19 against 12 with
    skewed ones.
    """

    slots = {"accumulator": INITIAL_ACCUMULATOR}

    def slot_shape(self, vocabulary_size: int, dim: int) -> tuple[int, ...]:
        return (vocabulary_size, dim)

    def update(self, table, slots, ids, gradient, rate) -> None:
        accumulated = tf.gather(slots["accumulator"], ids) + tf.square(gradient)
        slots["accumulator"].scatter_update(tf.IndexedSlices(accumulated, ids))
        subtract(table, ids, rate * gradient * tf.math.rsqrt(accumulated + EPSILON))


class RowWiseAdagrad(SparseOptimizer):
    """Adagrad with one accumulator a row, of the mean squared gradient (Mudigere et al., ISCA 2022, and FBGEMM's
    EXACT_ROWWISE_ADAGRAD): dim times less memory than Adagrad."""

    slots = {"accumulator": INITIAL_ACCUMULATOR}

    def slot_shape(self, vocabulary_size: int, dim: int) -> tuple[int, ...]:
        return (vocabulary_size,)

    def update(self, table, slots, ids, gradient, rate) -> None:
        accumulated = tf.gather(slots["accumulator"], ids) + tf.reduce_mean(tf.square(gradient), axis=1)
        slots["accumulator"].scatter_update(tf.IndexedSlices(accumulated, ids))
        scale = rate * tf.math.rsqrt(accumulated + EPSILON)
        subtract(table, ids, gradient * scale[:, tf.newaxis])


def subtract(table: tf.Variable, ids: tf.Tensor, step: tf.Tensor) -> None:
    """table[ids] -= step, for distinct ids: the same numbers as `scatter_sub`, whose CPU kernel adds on one thread
    (gather and `scatter_update` took 60 ms against 71 on uniform ids, 4.4 against 9.3 on skewed ones, on 2 cores)."""
    table.scatter_update(tf.IndexedSlices(tf.gather(table, ids) - step, ids))


def optimizer_from(document: Mapping[str, Any]) -> SparseOptimizer:
    """The optimizer that `SparseOptimizer.document` described."""
    options = dict(document)
    kind: Any = {"SGD": SGD, "Adagrad": Adagrad, "RowWiseAdagrad": RowWiseAdagrad}[options.pop("name")]
    if isinstance(options["learning_rate"], dict):
        options["learning_rate"] = keras.optimizers.schedules.deserialize(options["learning_rate"])
    return kind(**options)
