"""Sparse optimizers: what a table's backward pass does to the rows that were looked up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from foundation.tf import keras, tf

EPSILON = 1e-7  # as Keras has it
INITIAL_ACCUMULATOR = 0.1  # as Keras has it
NUMBERS = 8  # of a step, for a table: `SparseOptimizer.numbers`

LearningRate = Any  # a float, or a callable of the number of updates made, such as a keras LearningRateSchedule
Slots = Mapping[str, tf.Tensor]


@dataclass(frozen=True)
class Slot:
    """A slot variable. wide: as wide as a row, or one number a row."""

    initial: float
    wide: bool

    def shape(self, rows: int, dim: int) -> tuple[int, ...]:
        """Of the variable."""
        return (rows, dim) if self.wide else (rows,)


@dataclass(frozen=True)
class SparseOptimizer(ABC):
    """Takes one step on the rows that were looked up, and on no other ("lazy"), with their summed gradients.

    learning_rate: a float, a keras.optimizers.schedules.LearningRateSchedule, or another callable of the number of
    updates made ([] int64). weight_decay: decoupled (Loshchilov and Hutter, ICLR 2019; as Keras has it): each step
    first takes rate * weight_decay of the rows it touches off them. clipnorm: the largest norm that a table's whole
    gradient, summed over its features, keeps. clipvalue: the largest magnitude of any element. Clipping by the model's
    Keras optimizer does not reach the tables.
    """

    learning_rate: LearningRate = 0.01
    weight_decay: float = 0.0
    clipnorm: float | None = None
    clipvalue: float | None = None

    slots: ClassVar[Mapping[str, Slot]] = {}

    def __post_init__(self) -> None:
        if self.clipnorm is not None and self.clipvalue is not None:
            raise ValueError("clipnorm and clipvalue exclude each other")
        if self.weight_decay < 0:
            raise ValueError("weight_decay is not negative")
        if min(1.0 if clip is None else clip for clip in (self.clipnorm, self.clipvalue)) <= 0:
            raise ValueError("clipnorm and clipvalue are positive")
        if not callable(self.learning_rate) and self.learning_rate < 0:
            raise ValueError("learning_rate is not negative")

    @abstractmethod
    def step(
        self, rows: tf.Tensor, slots: Slots, gradient: tf.Tensor, numbers: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Rows and slots after a step. rows, gradient: [u, dim] float32, of distinct ids, the gradient summed and
        clipped; slots: [u, dim] or [u]; numbers: [NUMBERS] float32."""

    def constants(self, rate: tf.Tensor, updates: tf.Tensor) -> list[Any]:
        """At most four numbers that `step` and its compiled form (kernels/native/optimizers.h) need besides."""
        return []

    def numbers(self, updates: tf.Tensor) -> tf.Tensor:
        """[NUMBERS] float32 of the step after so many updates ([] int64): the learning rate, what weight decay leaves
        of a row, clipvalue, clipnorm (infinite where there is none), and the optimizer's own constants."""
        scheduled = self.learning_rate(updates) if callable(self.learning_rate) else self.learning_rate
        rate = tf.cast(scheduled, tf.float32)
        clips = [float("inf") if clip is None else clip for clip in (self.clipvalue, self.clipnorm)]
        numbers = [rate, 1.0 - rate * self.weight_decay, *clips, *self.constants(rate, updates)]
        return tf.stack([tf.cast(number, tf.float32) for number in numbers] + [0.0] * (NUMBERS - len(numbers)))

    @property
    def constant(self) -> bool:
        """Whether every step has the same numbers."""
        return not callable(self.learning_rate)

    def clipped(self, gradient: tf.Tensor) -> tf.Tensor:
        """The table's whole gradient [u, dim], clipped."""
        if self.clipnorm is not None:
            gradient = tf.clip_by_norm(gradient, self.clipnorm)
        if self.clipvalue is not None:
            gradient = tf.clip_by_value(gradient, -self.clipvalue, self.clipvalue)
        return gradient

    def document(self) -> dict[str, Any]:
        """As plain types, for a Keras config."""
        rate = self.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.optimizers.schedules.serialize(rate)
        return {**asdict(self), "name": type(self).__name__, "learning_rate": rate}


class SGD(SparseOptimizer):
    """row -= rate * g."""

    def step(self, rows, slots, gradient, numbers):
        return rows * numbers[1] - numbers[0] * gradient, {}


class Adagrad(SparseOptimizer):
    """accumulator += g^2; row -= rate * g / sqrt(accumulator + epsilon) (Duchi, Hazan and Singer, JMLR 2011)."""

    slots = {"accumulator": Slot(INITIAL_ACCUMULATOR, wide=True)}

    def constants(self, rate, updates):
        return [EPSILON]

    def step(self, rows, slots, gradient, numbers):
        accumulated = slots["accumulator"] + tf.square(gradient)
        rows = rows * numbers[1] - numbers[0] * gradient / tf.sqrt(accumulated + numbers[4])
        return rows, {"accumulator": accumulated}


class RowWiseAdagrad(SparseOptimizer):
    """Adagrad with one accumulator a row, of the mean squared gradient (Mudigere et al., ISCA 2022, and FBGEMM's
    EXACT_ROWWISE_ADAGRAD): dim times less memory than Adagrad."""

    slots = {"accumulator": Slot(INITIAL_ACCUMULATOR, wide=False)}

    def constants(self, rate, updates):
        return [EPSILON]

    def step(self, rows, slots, gradient, numbers, mean_square=None):
        """mean_square: [u], of the whole rows' gradients where these are only some of their columns."""
        if mean_square is None:
            mean_square = tf.reduce_mean(tf.square(gradient), axis=1)
        accumulated = slots["accumulator"] + mean_square
        scale = numbers[0] / tf.sqrt(accumulated + numbers[4])
        return rows * numbers[1] - scale[:, tf.newaxis] * gradient, {"accumulator": accumulated}


@dataclass(frozen=True)
class Adam(SparseOptimizer):
    """Lazy Adam: momentum m += (1 - beta_1) (g - m), velocity v += (1 - beta_2) (g^2 - v), row -= rate sqrt(1 -
    beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon), as Keras has it (Kingma and Ba, ICLR 2015, section 2); t counts
    the table's updates, and rows that are not looked up keep their moments as they are."""

    learning_rate: LearningRate = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = EPSILON

    slots = {"momentum": Slot(0.0, wide=True), "velocity": Slot(0.0, wide=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1 and self.epsilon > 0):
            raise ValueError("Adam: beta_1 and beta_2 lie in [0, 1), and epsilon is positive")

    @property
    def constant(self) -> bool:
        return False  # the correction of its bias

    def constants(self, rate, updates):
        step = tf.cast(updates + 1, tf.float64)
        unbiased = tf.sqrt(1.0 - tf.constant(self.beta_2, tf.float64) ** step)
        unbiased /= 1.0 - tf.constant(self.beta_1, tf.float64) ** step
        corrected = rate * tf.cast(unbiased, tf.float32)
        return [1.0 - self.beta_1, 1.0 - self.beta_2, self.epsilon, corrected]

    def step(self, rows, slots, gradient, numbers):
        momentum = slots["momentum"] + (gradient - slots["momentum"]) * numbers[4]
        velocity = slots["velocity"] + (tf.square(gradient) - slots["velocity"]) * numbers[5]
        rows = rows * numbers[1] - numbers[7] * momentum / (tf.sqrt(velocity) + numbers[6])
        return rows, {"momentum": momentum, "velocity": velocity}


@dataclass(frozen=True)
class FTRL(SparseOptimizer):
    """FTRL-proximal (McMahan et al., KDD 2013, algorithm 1, alpha being the learning rate): n the accumulated g^2,
    z += g - (sqrt(n) - sqrt(n before)) / alpha * row; row = 0 where |z| <= l1, else -(z - sign(z) l1) / ((beta +
    sqrt(n)) / alpha + l2). It regularises by l1 and l2; weight decay would be undone by the next step. As z begins at
    0, a row's first step forgets most of its initial values: begin with `initializer_scale=0`, as the paper does, where
    nothing else needs them."""

    l1: float = 0.0
    l2: float = 0.0
    beta: float = 0.0

    slots = {"accumulator": Slot(INITIAL_ACCUMULATOR, wide=True), "linear": Slot(0.0, wide=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay:
            raise ValueError("FTRL takes l2, not weight_decay")
        if min(self.l1, self.l2, self.beta) < 0:
            raise ValueError("FTRL: l1, l2 and beta are not negative")
        if callable(self.learning_rate) or self.learning_rate <= 0:
            raise ValueError(
                "FTRL's learning_rate is one positive number: what it has summed up was divided by it, so a schedule "
                "would scale every row by the ratio of its rates"
            )

    def constants(self, rate, updates):
        return [self.l1, self.l2, self.beta]

    def step(self, rows, slots, gradient, numbers):
        rate, l1, l2, beta = numbers[0], numbers[4], numbers[5], numbers[6]
        accumulated = slots["accumulator"] + tf.square(gradient)
        root = tf.sqrt(accumulated)
        linear = slots["linear"] + gradient - (root - tf.sqrt(slots["accumulator"])) / rate * rows
        rows = (tf.clip_by_value(linear, -l1, l1) - linear) / ((beta + root) / rate + l2)
        return rows, {"accumulator": accumulated, "linear": linear}


OPTIMIZERS: Mapping[str, type[SparseOptimizer]] = {
    kind.__name__: kind for kind in (SGD, Adagrad, RowWiseAdagrad, Adam, FTRL)
}


def optimizer_from(document: Mapping[str, Any]) -> SparseOptimizer:
    """The optimizer that `SparseOptimizer.document` described."""
    options = dict(document)
    kind = OPTIMIZERS[options.pop("name")]
    if isinstance(options["learning_rate"], dict):
        options["learning_rate"] = keras.optimizers.schedules.deserialize(options["learning_rate"])
    return kind(**options)
