"""One training step of an embedding, as headrace does it, and as others in TensorFlow do."""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from benchmarks.problem import Problem
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
    """Lookup and update of a problem's table, batch by batch."""

    def step(self, batch: int) -> float:
        """Seconds of one step."""

    def vectors(self, batch: int) -> np.ndarray | None:
        """What a batch looks up now, [B, F, dim]; None where it only moves bytes."""


class _TensorFlowStep(ABC):
    """A compiled step of a layer, with the gradient of its output given: no loss is timed."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._gradient = self._output_gradient(problem.gradient)
        self._inputs = [self._input(batch) for batch in range(len(problem.ids))]
        self._compiled = tf.function(self._step)

    def step(self, batch: int) -> float:
        start = time.perf_counter()
        self._compiled(self._inputs[batch], self._gradient)
        return time.perf_counter() - start

    def vectors(self, batch: int) -> np.ndarray:
        outputs = self._lookup(self._inputs[batch], False)
        return outputs.numpy() if tf.is_tensor(outputs) else np.stack([o.numpy() for o in outputs], axis=1)

    def _step(self, inputs: Any, gradient: Any) -> None:
        with tf.GradientTape() as tape:
            outputs = self._lookup(inputs, True)
        self._apply(tape.gradient(outputs, self._variables(), output_gradients=gradient))

    def _input(self, batch: int) -> Any:
        """[B, F] ids, or a RaggedTensor for each feature."""
        if self._problem.splits is None:
            return tf.constant(self._problem.one_hot(batch))
        return [tf.RaggedTensor.from_row_splits(*bag, validate=False) for bag in self._problem.bags(batch)]

    def _output_gradient(self, gradient: np.ndarray) -> Any:
        if self._problem.splits is None:
            return tf.constant(gradient)
        return [tf.constant(np.ascontiguousarray(gradient[:, f])) for f in range(gradient.shape[1])]

    @abstractmethod
    def _lookup(self, inputs: Any, training: bool) -> Any:
        """The vectors [B, F, dim], or [B, dim] for each feature."""

    @abstractmethod
    def _variables(self) -> list[tf.Variable]:
        """What the gradient is asked for."""

    @abstractmethod
    def _apply(self, gradients: list[Any]) -> None:
        """Updates the table, unless the backward pass has."""


class HeadraceStep(_TensorFlowStep):
    """ShardedEmbedding: the update is fused into the backward pass."""

    def __init__(self, problem: Problem) -> None:
        optimizer = OPTIMIZERS[problem.optimizer](LEARNING_RATE)
        table = TableConfig("table", problem.rows, problem.dim, optimizer, initializer_scale=0.0)
        if problem.splits is None:
            features = {"0": FeatureConfig(table, None)}
        else:
            features = {str(f): FeatureConfig(table, "sum") for f in range(len(problem.splits))}
        self._layer = ShardedEmbedding(features)
        super().__init__(problem)

    def _lookup(self, inputs: Any, training: bool) -> Any:
        if self._problem.splits is None:
            return self._layer({"0": inputs}, training=training)["0"]
        outputs = self._layer({str(f): ids for f, ids in enumerate(inputs)}, training=training)
        return list(outputs.values())

    def _variables(self) -> list[tf.Variable]:
        return [self._layer.gradient_trap]

    def _apply(self, gradients: list[Any]) -> None:
        """The backward pass has done it."""


class TwinStep(HeadraceStep):
    """The same layer without compiled kernels."""

    def __init__(self, problem: Problem) -> None:
        with _without_kernels():
            super().__init__(problem)

    def step(self, batch: int) -> float:
        with _without_kernels():  # they are chosen when the step is traced
            return super().step(batch)

    def vectors(self, batch: int) -> np.ndarray:
        with _without_kernels():
            return super().vectors(batch)


@contextlib.contextmanager
def _without_kernels() -> Iterator[None]:
    before = os.environ.get("HEADRACE_KERNELS")
    os.environ["HEADRACE_KERNELS"] = "off"
    try:
        yield
    finally:
        del os.environ["HEADRACE_KERNELS"]
        if before is not None:
            os.environ["HEADRACE_KERNELS"] = before


class KerasStep(_TensorFlowStep):
    """keras.layers.Embedding, or tf.nn.embedding_lookup_sparse on such a variable where rows are bags, with a Keras
    optimizer. Keras has no row-wise Adagrad: its Adagrad stands for both. SGD is the legacy one: Keras' newer SGD
    keeps a momentum even where it is 0, and passes over the whole table each step."""

    def __init__(self, problem: Problem) -> None:
        self._layer = keras.layers.Embedding(problem.rows, problem.dim, embeddings_initializer="zeros")
        self._layer.build(None)
        kind = keras.optimizers.legacy.SGD if problem.optimizer == "sgd" else keras.optimizers.Adagrad
        self._optimizer = kind(LEARNING_RATE)
        if problem.optimizer != "sgd":
            self._optimizer.build(self._variables())  # its slots: none may be made while a step is compiled
        super().__init__(problem)

    def _input(self, batch: int) -> Any:
        inputs = super()._input(batch)
        return inputs if self._problem.splits is None else [ragged.to_sparse() for ragged in inputs]

    def _lookup(self, inputs: Any, training: bool) -> Any:
        if self._problem.splits is None:
            return self._layer(inputs)
        # empty bags at the end have no row in a lookup of sparse ids: the safe form gives them zeros
        return [tf.nn.safe_embedding_lookup_sparse(self._layer.embeddings, ids, combiner="sum") for ids in inputs]

    def _variables(self) -> list[tf.Variable]:
        return self._layer.trainable_weights

    def _apply(self, gradients: list[Any]) -> None:
        self._optimizer.apply_gradients(zip(gradients, self._variables(), strict=True))
