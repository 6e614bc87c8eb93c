"""One training step of an embedding, as headrace and as Keras do it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from embeddings import SGD, Adagrad, FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.optimizers import SparseOptimizer
from foundation.tf import keras, tf

LEARNING_RATE = 0.02
OPTIMIZERS: dict[str, Callable[[float], SparseOptimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": Adagrad,
    "sgd": SGD,
}


class Contender(Protocol):
    """Lookup and update of one table of zeros, on numbered batches."""

    def step(self, batch: int) -> float:
        """Seconds of one step."""

    def rows(self, batch: int) -> np.ndarray:
        """The vectors [B, F, dim] of a batch's ids."""

    def release(self) -> None:
        """Gives the memory of its tables back; it cannot be used afterwards."""


class _TensorFlowStep(ABC):
    """A compiled step of a Keras layer, with the gradient of its output given: no loss is timed."""

    def __init__(self, ids: np.ndarray, gradient: np.ndarray) -> None:
        """ids: [batches, B, F] int64. gradient: [B, F, dim] float32."""
        self._ids = [tf.constant(batch) for batch in ids]
        self._gradient = tf.constant(gradient)
        self._compiled = tf.function(self._step)

    def step(self, batch: int) -> float:
        start = time.perf_counter()
        self._compiled(self._ids[batch], self._gradient)
        return time.perf_counter() - start

    def rows(self, batch: int) -> np.ndarray:
        vectors: np.ndarray = self._lookup(self._ids[batch], False).numpy()
        return vectors

    def release(self) -> None:
        # By hand: TensorFlow's registry of custom gradients keeps a traced layer, so its tables, for the process' life.
        for variable in self._owned():
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.zeros((0,), variable.dtype))

    def _step(self, ids: tf.Tensor, gradient: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            vectors = self._lookup(ids, True)
        self._apply(tape.gradient(vectors, self._variables(), output_gradients=gradient))

    @abstractmethod
    def _lookup(self, ids: tf.Tensor, training: bool) -> tf.Tensor:
        """The vectors [B, F, dim] of ids [B, F]."""

    @abstractmethod
    def _variables(self) -> list[tf.Variable]:
        """What the gradient is asked for."""

    @abstractmethod
    def _apply(self, gradients: list[Any]) -> None:
        """Updates the table, unless the backward pass has."""

    @abstractmethod
    def _owned(self) -> list[tf.Variable]:
        """Every variable it holds, for `release`."""


class HeadraceStep(_TensorFlowStep):
    """ShardedEmbedding: the update is fused into the backward pass."""

    def __init__(self, optimizer: str, vocabulary_size: int, ids: np.ndarray, gradient: np.ndarray) -> None:
        super().__init__(ids, gradient)
        table = TableConfig(
            "table",
            vocabulary_size,
            gradient.shape[-1],
            OPTIMIZERS[optimizer](LEARNING_RATE),
            initializer_scale=0.0,
        )
        self._layer = ShardedEmbedding({"ids": FeatureConfig(table, None)})

    def _lookup(self, ids: tf.Tensor, training: bool) -> tf.Tensor:
        return self._layer({"ids": ids}, training=training)["ids"]

    def _variables(self) -> list[tf.Variable]:
        return [self._layer.gradient_trap]

    def _apply(self, gradients: list[Any]) -> None:
        """The backward pass has done it."""

    def _owned(self) -> list[tf.Variable]:
        return self._layer.variables


class KerasStep(_TensorFlowStep):
    """keras.layers.Embedding with a Keras optimizer. Keras has no row-wise Adagrad: its Adagrad stands for both. SGD is
    the legacy one: Keras' newer SGD keeps a momentum even where it is 0, and passes over the whole table each step."""

    def __init__(self, optimizer: str, vocabulary_size: int, ids: np.ndarray, gradient: np.ndarray) -> None:
        super().__init__(ids, gradient)
        self._layer = keras.layers.Embedding(vocabulary_size, gradient.shape[-1], embeddings_initializer="zeros")
        self._layer.build(None)
        kind = keras.optimizers.legacy.SGD if optimizer == "sgd" else keras.optimizers.Adagrad
        self._optimizer = kind(LEARNING_RATE)
        if optimizer != "sgd":
            self._optimizer.build(self._variables())  # its slots: none may be made while a step is compiled

    def _lookup(self, ids: tf.Tensor, training: bool) -> tf.Tensor:
        return self._layer(ids)

    def _variables(self) -> list[tf.Variable]:
        return self._layer.trainable_weights

    def _apply(self, gradients: list[Any]) -> None:
        self._optimizer.apply_gradients(zip(gradients, self._variables(), strict=True))

    def _owned(self) -> list[tf.Variable]:
        slots = self._optimizer.variables
        return [*self._layer.variables, *(slots() if callable(slots) else slots)]
