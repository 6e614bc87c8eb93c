"""A planner's workload as a model that trains: what a prediction is fitted to, and what it is held against."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

import embeddings
from embeddings import FeatureConfig, ShardedEmbedding, TableConfig
from embeddings.planner.tables import TableSpec, Workload
from embeddings.sharding import ShardingPlan
from foundation.memory import keep_freed_memory
from foundation.tf import as_written, keras, tf
from strategies import Communicator
from strategies.share import summed

LEARNING_RATE = 0.01

Batch = dict[str, tf.Tensor]  # by feature, ids [B] or [B, pooling_factor] int64 of one rank's part of a global batch
Step = Callable[[Batch], tf.Tensor]


def settle_process(cores: Sequence[int]) -> None:
    """Before TensorFlow is first used: this process on these cores, a thread each, keeping freed memory as training
    does."""
    os.sched_setaffinity(0, set(cores))
    tf.config.threading.set_intra_op_parallelism_threads(len(cores))
    tf.config.threading.set_inter_op_parallelism_threads(len(cores))
    keep_freed_memory()


def training_step(
    workload: Workload,
    widths: Sequence[int] = (),
    communicator: Communicator | None = None,
    plan: ShardingPlan | None = None,
) -> Step:
    """A step on a batch: lookups, dense layers, gradients, the dense all-reduce, updates of tables and dense weights,
    as `trainer.loop` takes it. Gives the global batch's loss, [] float32: of the dense layers' outputs, or of all
    vectors. widths: of the dense layers above the vectors side by side. communicator, plan: of tables over ranks."""
    optimizers = {spec.name: getattr(embeddings, spec.optimizer)(LEARNING_RATE) for spec in workload.tables}
    tables = {
        spec.name: TableConfig(spec.name, spec.rows, spec.dim, optimizers[spec.name], precision=spec.precision)
        for spec in workload.tables
    }
    features = {
        name: FeatureConfig(tables[spec.name], "sum") for spec in workload.tables for name in _feature_names(spec)
    }
    spread: dict[str, Any] = {} if communicator is None else {"communicator": communicator, "plan": plan}
    layer = ShardedEmbedding(features, **spread)
    activations = [*["relu"] * (len(widths) - 1), None]
    dense = [keras.layers.Dense(width, activation) for width, activation in zip(widths, activations, strict=False)]
    for each, below in zip(dense, (workload.activation_width, *widths), strict=False):
        each.build([None, below])
    variables = [*layer.trainable_variables, *(weight for each in dense for weight in each.trainable_variables)]
    optimizer = keras.optimizers.Adagrad(LEARNING_RATE)
    optimizer.build(variables)

    @tf.function
    @as_written
    def step(batch: Batch) -> tf.Tensor:
        with tf.GradientTape() as tape:
            vectors = list(layer(batch, training=True).values())
            outputs = [reduce(lambda x, each: each(x), dense, tf.concat(vectors, 1))] if widths else vectors
            loss = tf.add_n([tf.reduce_sum(each) for each in outputs]) / workload.batch_size
        gradients = [*tape.gradient(loss, variables), loss]
        *gradients, of_batch = gradients if communicator is None else summed(communicator, gradients)
        optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        return of_batch

    return step


def batches_of(workload: Workload, ranks: int, rank: int, count: int) -> list[Batch]:
    """A rank's part of so many batches, of ids by the tables' laws, the frequent ones first in a table."""
    rng = np.random.default_rng(rank)
    drawn: list[Batch] = [{} for _ in range(count)]
    for spec in workload.tables:
        examples = workload.batch_size // ranks
        shape = (examples,) if spec.pooling_factor == 1 else (examples, round(spec.pooling_factor))
        cumulative = np.cumsum(np.arange(1, spec.rows + 1, dtype=np.float64) ** -spec.zipf_alpha)
        for batch in drawn:
            for name in _feature_names(spec):
                ids = np.searchsorted(cumulative, rng.random(shape) * cumulative[-1])
                batch[name] = tf.constant(np.minimum(ids, spec.rows - 1))
    return drawn


def timed(step: Step, batches: Sequence[Batch], steps: int) -> list[float]:
    """Seconds of each of so many steps, on the batches in turn, until its loss is there."""
    seconds = []
    for number in range(steps):
        start = time.perf_counter()
        step(batches[number % len(batches)]).numpy()
        seconds.append(time.perf_counter() - start)
    return seconds


def undisturbed(seconds: Sequence[float]) -> float:
    """What a step takes when nothing else runs: the lower quartile, since what else runs only adds."""
    return float(np.percentile(seconds, 25))


def _feature_names(spec: TableSpec) -> list[str]:
    return [f"{spec.name}.{feature}" for feature in range(spec.features)]
