"""One worker of a model in training over headrace's sharded tables, driven over JSON lines: alone, or one of those that
TF_CONFIG names.

Questions: {} -> versions; {"model": "dlrm" or "embedding", "features": [{"name", "table", "bag"}], "tables": rows of
each, "dim", "learning_rate", "batch": examples of one worker, "workers", "weights" (npz: dense weights by name; "rows"
[n, dim], which every table starts with, repeated), "batches" (npz, see `scaling_problem.write_batches`), "wire": the
precision of vectors and gradients on the wire} -> {"communicator"}: the model is made; {"train": [k ...], "share": true
or false, "ahead": true or false} -> {"began", "ended": seconds on the machine's clock, "losses": a step each, of the
global batch}: this worker's share of those batches is trained on, or where it is alone and "share" is false the whole
batches, with "ahead" each batch's ids sent while the one before is computed, as far as the layer does so; {"count": k}
-> {"calls": [[kind, dtype, bytes that leave this worker]]}: the exchanges of a step on its share; {"vectors": n,
"file": path} -> {}: the vectors [n, features, dim] of the first n examples of its share of batch 0, alone of each
share, as npy.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.counting import CountingCommunicator
from benchmarks.recommenders import DLRM
from embeddings import Begun, FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.interactions import pairwise_dots
from embeddings.sharding.held import HeldShard
from embeddings.sharding.sharded import BUCKETS
from embeddings.wire import Wire
from foundation.tf import keras, tf
from strategies import Strategy, create_strategy
from strategies.share import summed

_FILLED_AT_ONCE = 1 << 18  # rows

Ids = list[Any]  # of each feature, [B] int64 or ragged


class Tables(keras.layers.Layer):
    """The features' sharded tables. Gives [B, dim] float32 of each feature."""

    def __init__(self, question: dict[str, Any], communicator: CountingCommunicator) -> None:
        super().__init__()
        optimizer = RowWiseAdagrad(question["learning_rate"])
        tables = [
            TableConfig(f"table_{number}", rows, question["dim"], optimizer, initializer_scale=0.0)
            for number, rows in enumerate(question["tables"])
        ]
        features = {feature["name"]: FeatureConfig(tables[feature["table"]], "sum") for feature in question["features"]}
        wire = Wire(vectors=question["wire"], gradients=question["wire"])
        self.sharded = ShardedEmbedding(features, communicator=communicator, wire=wire)

    def call(self, ids: Ids | Begun, training: bool | None = None) -> list[tf.Tensor]:
        inputs = ids if isinstance(ids, Begun) else self._by_feature(ids)
        return list(self.sharded(inputs, training=training).values())

    def begin(self, ids: Ids) -> Begun:
        """Of a training step, what needs no vector."""
        return self.sharded.begin(self._by_feature(ids), training=True)

    def _by_feature(self, ids: Ids) -> dict[str, Any]:
        return dict(zip(self.sharded.features, ids, strict=True))


class SumOfVectors(keras.Model):
    """The embedding-only model: all that is looked up, summed. A dense part that costs nothing."""

    def __init__(self, embeddings: Tables) -> None:
        super().__init__()
        self.embeddings = embeddings

    def call(self, inputs: tuple[tf.Tensor, Ids], training: bool | None = None) -> tf.Tensor:
        """Gives [] float32."""
        return tf.add_n([tf.reduce_sum(vectors) for vectors in self.embeddings(inputs[1], training=training)])


class Worker:
    """A model, its batches and its compiled training step: dense gradients are summed over the workers in one exchange,
    as `trainer.loop` does."""

    def __init__(self, question: dict[str, Any], strategy: Strategy) -> None:
        self._strategy = strategy
        self._communicator = CountingCommunicator(strategy.communicator)
        self._examples = question["batch"] * question["workers"]
        self._dlrm = question["model"] == "dlrm"
        rank, size = self._communicator.rank, self._communicator.size
        with np.load(question["batches"], allow_pickle=False) as batches:
            own = range(rank * question["batch"], (rank + 1) * question["batch"])
            self._shares = _tensors(batches, question["features"], own)
            every = range(self._examples)
            self._wholes = _tensors(batches, question["features"], every) if size == 1 else self._shares
        with np.load(question["weights"], allow_pickle=False) as weights, strategy.scope():
            embeddings = Tables(question, self._communicator)
            self._model: keras.Model = DLRM(embeddings, pairwise_dots) if self._dlrm else SumOfVectors(embeddings)
            _make_dense(self._model, weights)
            for shard in embeddings.sharded.shards():
                _fill(shard, weights["rows"])
            self._optimizer = keras.optimizers.Adagrad(question["learning_rate"])
            self._optimizer.build(self._model.trainable_variables)
        self._embeddings = embeddings
        self._train = tf.function(self._step)
        self._begin = tf.function(self._begun)
        self._train_ahead = tf.function(self._step_ahead)
        self._train_begun = tf.function(self._step_begun)
        self._form: Any = None  # of what begins a step, as tf.nest sees it
        self._counted = tf.function(self._counted_step)
        self._calls: list[tuple[str, str]] = []  # of the counted step: kind, dtype
        self._look_up = tf.function(lambda ids: strategy.run(embeddings, ids))

    def _step(self, inputs: tuple[tf.Tensor, Ids | Begun], labels: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        return self._strategy.run(self._on_this_rank, inputs, labels, examples)

    def _begun(self, ids: Ids) -> list[tf.Tensor]:
        def on_this_rank(ids: Ids) -> list[tf.Tensor]:
            self._form = self._embeddings.begin(ids)
            return tf.nest.flatten(self._form, expand_composites=True)

        return self._strategy.run(on_this_rank, ids)

    def _step_ahead(
        self, inputs: tuple[tf.Tensor, list[tf.Tensor]], labels: tf.Tensor, examples: tf.Tensor, following: Ids
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The step that `_begun` has begun, and the beginning of the one that follows, in any order."""
        return self._step_begun(inputs, labels, examples), self._begun(following)

    def _step_begun(
        self, inputs: tuple[tf.Tensor, list[tf.Tensor]], labels: tf.Tensor, examples: tf.Tensor
    ) -> tf.Tensor:
        dense, begun = inputs
        ids = tf.nest.pack_sequence_as(self._form, begun, expand_composites=True)
        return self._step((dense, ids), labels, examples)

    def _on_this_rank(self, inputs: tuple[tf.Tensor, Ids | Begun], labels: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        """Trains on this worker's share of a batch of so many examples; gives the whole batch's mean loss."""
        with tf.GradientTape() as tape:
            outputs = self._model(inputs, training=True)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, outputs) if self._dlrm else outputs
            loss = tf.reduce_sum(losses) / examples
        variables = self._model.trainable_variables
        *gradients, total = summed(self._communicator, [*tape.gradient(loss, variables), loss])
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        return total

    def _counted_step(self, inputs: tuple[tf.Tensor, Ids], labels: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        """[calls] int64: the bytes that leave this worker in each."""
        with self._communicator.counting() as calls:
            self._step(inputs, labels, examples)
        self._calls = [(call.kind, call.dtype) for call in calls]
        return tf.stack([call.leaving for call in calls]) if calls else tf.zeros([0], tf.int64)

    def train(self, batches: list[int], share: bool, ahead: bool) -> dict[str, Any]:
        """See the module."""
        examples = tf.constant(float(len(self._labels(share)) * self._communicator.size))
        given = [(self._shares if share else self._wholes)[batch] for batch in batches]
        losses, began = [], time.perf_counter()
        if ahead and self._embeddings.sharded.begins_ahead:
            begun = self._begin(given[0][0][1])
            for ((dense, _), labels), ((_, following), _) in itertools.pairwise(given):
                loss, begun = self._train_ahead((dense, begun), labels, examples, following)
                losses.append(float(loss))
            (dense, _), labels = given[-1]
            losses.append(float(self._train_begun((dense, begun), labels, examples)))
        else:
            losses = [float(self._train(*of_batch, examples)) for of_batch in given]
        return {"began": began, "ended": time.perf_counter(), "losses": losses}

    def _labels(self, share: bool) -> tf.Tensor:
        return (self._shares if share else self._wholes)[0][1]

    def count(self, batch: int) -> list[tuple[str, str, int]]:
        """Of each exchange of a step: kind, dtype, bytes that leave this worker."""
        leaving = self._counted(*self._shares[batch], tf.constant(float(self._examples))).numpy()
        return [(*call, int(size)) for call, size in zip(self._calls, leaving, strict=True)]

    def vectors(self, examples: int) -> np.ndarray:
        """[workers here * n, features, dim] float32: what the first n examples of each worker's share of batch 0 look
        up now."""
        (_, ids), labels = self._wholes[0]
        vectors = tf.stack(self._look_up(ids), axis=1).numpy()
        shares = len(labels) // len(self._shares[0][1])
        by_share = vectors.reshape(shares, -1, *vectors.shape[1:])[:, :examples]
        return by_share.reshape(-1, *vectors.shape[1:])


def _tensors(batches: Any, features: Sequence[dict[str, Any]], examples: range) -> list[tuple[Any, tf.Tensor]]:
    """A step's arguments ((dense, ids of each feature), labels) of each batch, of those examples alone."""
    part = slice(examples.start, examples.stop)
    by_feature = [_ids(batches, feature, part) for feature in features]
    dense, labels = batches["dense"][:, part], batches["labels"][:, part]
    return [
        ((tf.constant(of_batch), ids), tf.constant(own))
        for of_batch, ids, own in zip(dense, zip(*by_feature, strict=True), labels, strict=True)
    ]


def _ids(batches: Any, feature: dict[str, Any], part: slice) -> list[Any]:
    """Of each batch."""
    ids = batches[f"{feature['name']}/ids"]
    if feature["bag"] is None:
        return [tf.constant(of_batch) for of_batch in ids[:, part]]
    lengths = batches[f"{feature['name']}/lengths"]
    splits = np.concatenate([[0], np.cumsum(lengths)])
    begin, end = splits[part.start], splits[part.stop]
    own = tf.constant(splits[part.start : part.stop + 1] - begin)
    return [tf.RaggedTensor.from_row_splits(of_batch, own, validate=False) for of_batch in ids[:, begin:end]]


def _make_dense(model: keras.Model, weights: Any) -> None:
    """Makes the dense layers' weights: "<layer>/kernel" [in, out], "<layer>/bias" [out]."""
    for layer in model.submodules:
        if isinstance(layer, keras.layers.Dense):
            kernel = weights[f"{layer.name}/kernel"]
            layer.build([None, kernel.shape[0]])
            layer.kernel.assign(kernel)
            layer.bias.assign(weights[f"{layer.name}/bias"])


def _fill(shard: HeldShard, rows: np.ndarray) -> None:
    """Gives each id of a static table's shard its row, `rows` [n, dim] over and over, in place: tables stay on their
    huge pages."""
    here = np.zeros(BUCKETS, bool)
    here[shard.buckets] = True
    for start in range(0, shard.config.vocabulary_size or 0, _FILLED_AT_ONCE):
        ids = np.arange(start, min(start + _FILLED_AT_ONCE, shard.config.vocabulary_size or 0))
        ids = ids[here[ids % BUCKETS]]
        shard.held.rows.scatter_update(tf.IndexedSlices(rows[ids % len(rows)], shard.rows_of(ids)))


def main() -> None:
    strategy: Strategy | None = None
    worker: Worker | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "model" in question:
            if strategy is None:
                tf.config.threading.set_intra_op_parallelism_threads(1)
                tf.config.threading.set_inter_op_parallelism_threads(1)
                strategy = create_strategy("multi_worker" if "TF_CONFIG" in os.environ else "single")
            worker = None  # its tables are freed before others are made
            worker = Worker(question, strategy)
            answer = {"communicator": type(strategy.communicator).__name__}
        elif "train" in question:
            assert worker
            answer = worker.train(question["train"], question["share"], question["ahead"])
        elif "count" in question:
            assert worker
            answer = {"calls": worker.count(question["count"])}
        elif "vectors" in question:
            assert worker
            np.save(question["file"], worker.vectors(question["vectors"]))
        else:
            answer = {package: version(package) for package in ("tensorflow", "tf-keras")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
