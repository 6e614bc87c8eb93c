"""DLRM and DCN-v2 in TensorFlow, over headrace's embeddings or Keras' own; and, run as a program, one of them trained
step by step over JSON lines, so that each contender has a process, an environment and a memory of its own.

Questions: {} -> versions; {"side": "headrace" or "keras", "model", "tables": rows of each, "dim", "learning_rate",
"threads", "weights" (npz: dense weights by name; "rows" [n, dim], which every table starts with, repeated), "batches"
(npz: ids [batches, F, B] int64, dense [batches, B, 13] float32, labels [batches, B] float32)} -> {}: the model is made;
{"batch": k} -> {"seconds", "loss"}: one step on batch k; {"rows": k, "file": path} -> {}: the vectors [B, F * dim] of
batch k, written as npy; {"log": folder of Parquet, "warmup"} -> {"seconds", "waited", "steps"}: trained on the whole
log.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.interactions import pairwise_dots
from embeddings.kernels import reference
from foundation.tf import keras, tf
from inputs.parquet import ParquetLog
from inputs.stream import Kind, Stream

BOTTOM, TOP = (512, 256, 64), (512, 256, 1)  # DLRM's units (Naumov et al., 2019); bottom ends in the tables' width
CROSS_LAYERS, CROSS_RANK, DEEP = 3, 512, (512, 256, 1)  # DCN-v2's (Wang et al., WWW 2021; low rank as in MLPerf)
DENSE = 13
LABEL = "label"

Vectors = list[tf.Tensor]  # [B, dim] float32 of each feature
Dots = Callable[[Vectors], tf.Tensor]


def columns(features: int) -> dict[str, Kind]:
    """The columns of a log of Criteo's shape."""
    ids: dict[str, Kind] = {f"category_{i}": "id" for i in range(features)}
    return {**ids, **{f"number_{i}": "dense" for i in range(DENSE)}, LABEL: "dense"}


class HeadraceEmbeddings(keras.layers.Layer):
    """A table for each feature in one ShardedEmbedding."""

    def __init__(self, tables: Sequence[int], dim: int, learning_rate: float) -> None:
        super().__init__()
        optimizer = RowWiseAdagrad(learning_rate)
        configs = [
            TableConfig(f"category_{i}", rows, dim, optimizer, initializer_scale=0.0) for i, rows in enumerate(tables)
        ]
        self._embedding = ShardedEmbedding({config.name: FeatureConfig(config, "sum") for config in configs})
        self.tables = list(self._embedding.tables.values())

    def call(self, ids: Sequence[tf.Tensor], training: bool | None = None) -> Vectors:
        by_feature = dict(zip(self._embedding.features, ids, strict=True))
        return list(self._embedding(by_feature, training=training).values())


class KerasEmbeddings(keras.layers.Layer):
    """A keras.layers.Embedding for each feature."""

    def __init__(self, tables: Sequence[int], dim: int) -> None:
        super().__init__()
        self._embeddings = [keras.layers.Embedding(rows, dim, embeddings_initializer="zeros") for rows in tables]
        for embedding in self._embeddings:
            embedding.build(None)
        self.tables = [embedding.embeddings for embedding in self._embeddings]

    def call(self, ids: Sequence[tf.Tensor]) -> Vectors:
        return [embedding(of_feature) for embedding, of_feature in zip(self._embeddings, ids, strict=True)]


class DLRM(keras.Model):
    """Deep learning recommendation model (Naumov et al., arXiv 1906.00091)."""

    def __init__(self, embeddings: keras.layers.Layer, dots: Dots = reference.dots) -> None:
        super().__init__()
        self.embeddings, self._dots = embeddings, dots
        self.bottom = [keras.layers.Dense(units, "relu", name=f"bottom_{i}") for i, units in enumerate(BOTTOM)]
        self.top = _tower("top", TOP)

    def call(self, inputs: tuple[tf.Tensor, Sequence[tf.Tensor]], training: bool | None = None) -> tf.Tensor:
        """inputs: dense features [B, 13] float32, and each feature's ids [B] int64. Gives logits [B] float32."""
        dense, ids = inputs
        vectors = self.embeddings(ids, training=training)
        numbers = _through(self.bottom, dense)
        crossed = self._dots([numbers, *vectors])
        return tf.squeeze(_through(self.top, tf.concat([numbers, crossed], axis=1)), axis=1)


class DCNv2(keras.Model):
    """Deep and cross network, version 2, stacked, its cross layers of low rank (Wang et al., WWW 2021)."""

    def __init__(self, embeddings: keras.layers.Layer, width: int) -> None:
        """width: of the dense features and all the vectors together."""
        super().__init__()
        self.embeddings = embeddings
        self.down = [
            keras.layers.Dense(CROSS_RANK, use_bias=False, name=f"cross_{i}_down") for i in range(CROSS_LAYERS)
        ]
        self.up = [keras.layers.Dense(width, name=f"cross_{i}_up") for i in range(CROSS_LAYERS)]
        self.deep = _tower("deep", DEEP)

    def call(self, inputs: tuple[tf.Tensor, Sequence[tf.Tensor]], training: bool | None = None) -> tf.Tensor:
        """As `DLRM.call`."""
        dense, ids = inputs
        first = tf.concat([dense, *self.embeddings(ids, training=training)], axis=1)
        crossed = first
        for down, up in zip(self.down, self.up, strict=True):
            crossed = first * up(down(crossed)) + crossed
        return tf.squeeze(_through(self.deep, crossed), axis=1)


def _tower(name: str, units: Sequence[int]) -> list[keras.layers.Layer]:
    """Dense layers, all but the last with a ReLU."""
    last = len(units) - 1
    return [keras.layers.Dense(u, None if i == last else "relu", name=f"{name}_{i}") for i, u in enumerate(units)]


def _through(layers: Sequence[keras.layers.Layer], values: tf.Tensor) -> tf.Tensor:
    for layer in layers:
        values = layer(values)
    return values


class Training:
    """A model and its compiled training step. Dense weights, and Keras' tables, are trained by Keras' Adagrad."""

    def __init__(self, question: dict[str, Any]) -> None:
        tables, dim, rate = question["tables"], question["dim"], question["learning_rate"]
        headrace = question["side"] == "headrace"
        embeddings = HeadraceEmbeddings(tables, dim, rate) if headrace else KerasEmbeddings(tables, dim)
        if question["model"] == "dlrm":
            self._model: keras.Model = DLRM(embeddings, pairwise_dots if headrace else reference.dots)
        else:
            self._model = DCNv2(embeddings, DENSE + dim * len(tables))
        self._optimizer = keras.optimizers.Adagrad(rate)
        with np.load(question["batches"], allow_pickle=False) as batches:
            parts = zip(batches["dense"], batches["ids"], batches["labels"], strict=True)
            self._batches = [_tensors(*part) for part in parts]
        self._model(self._batches[0][0])  # makes its weights
        with np.load(question["weights"], allow_pickle=False) as weights:
            _load(self._model, weights)
            for table in embeddings.tables:
                _fill(table, weights["rows"])
        self._optimizer.build(self._model.trainable_weights)
        self._features = len(tables)
        self._compiled = tf.function(self._step)

    def _step(self, inputs: tuple[tf.Tensor, Sequence[tf.Tensor]], labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self._model(inputs, training=True)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        weights = self._model.trainable_weights
        self._optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    def run(self, batch: int) -> tuple[float, float]:
        """Seconds and loss of one step."""
        start = time.perf_counter()
        loss = float(self._compiled(*self._batches[batch]))
        return time.perf_counter() - start, loss

    def rows(self, batch: int) -> np.ndarray:
        """[B, F * dim] float32: the vectors of a batch."""
        (_, ids), _ = self._batches[batch]
        vectors: np.ndarray = tf.concat(self._model.embeddings(ids, training=False), axis=1).numpy()
        return vectors

    def run_log(self, folder: Path, warmup: int) -> tuple[float, float, int]:
        """Trains on a log, in its own order. Seconds after the `warmup` batches, those of them that the step waited for
        a batch, and steps."""
        names = list(columns(self._features))
        ids, numbers = names[: self._features], names[self._features : -1]
        batch_size = int(self._batches[0][1].shape[0])
        stream = Stream(ParquetLog(folder, columns(self._features)), batch_size)
        waited, steps, start = 0.0, 0, time.perf_counter()
        with stream.iterate(0) as batches:
            while True:
                asked = time.perf_counter()
                batch: Any = next(batches, None)
                if batch is None:
                    return time.perf_counter() - start, waited, steps
                dense = np.stack([batch[name] for name in numbers], axis=1)
                inputs = _tensors(dense, [batch[name] for name in ids], batch[LABEL])
                if warmup:
                    self._compiled(*inputs)
                    warmup, start = warmup - 1, time.perf_counter()
                    continue
                waited += time.perf_counter() - asked
                float(self._compiled(*inputs))
                steps += 1


def _tensors(dense: np.ndarray, ids: Sequence[np.ndarray], labels: np.ndarray) -> tuple[Any, tf.Tensor]:
    """A step's arguments, of [B, 13], [B] for each feature, and [B]."""
    return (tf.constant(dense), tuple(tf.constant(of_feature) for of_feature in ids)), tf.constant(labels)


def _load(model: keras.Model, weights: Any) -> None:
    """Sets the dense layers' weights: "<layer>/kernel" [in, out], "<layer>/bias" [out]."""
    for layer in model.submodules:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(weights[f"{layer.name}/kernel"])
            if layer.use_bias:
                layer.bias.assign(weights[f"{layer.name}/bias"])


def _fill(table: tf.Variable, rows: np.ndarray) -> None:
    """Writes `rows` over and over, in place: headrace's tables stay on their huge pages."""
    for start in range(0, table.shape[0], len(rows)):
        ids = tf.range(start, min(start + len(rows), table.shape[0]))
        table.scatter_update(tf.IndexedSlices(rows[: len(ids)], ids))


def main() -> None:
    training: Training | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "side" in question:
            tf.config.threading.set_intra_op_parallelism_threads(question["threads"])
            tf.config.threading.set_inter_op_parallelism_threads(question["threads"])
            training = Training(question)
        elif "batch" in question:
            assert training
            seconds, loss = training.run(question["batch"])
            answer = {"seconds": seconds, "loss": loss}
        elif "rows" in question:
            assert training
            np.save(question["file"], training.rows(question["rows"]))
        elif "log" in question:
            assert training
            seconds, waited, steps = training.run_log(Path(question["log"]), question["warmup"])
            answer = {"seconds": seconds, "waited": waited, "steps": steps}
        else:
            answer = {package: version(package) for package in ("tensorflow", "tf-keras")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
