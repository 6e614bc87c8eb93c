"""One rank's short training, or its reading of what others trained, which then saves its tables: run as a process a
rank.

python rank_program.py FOLDER [FROM]     under TF_CONFIG, alone, of HEADRACE_DEVICES replicas, or by horovodrun
"""

import os
import sys

import numpy as np

from embeddings import (
    Adam,
    FeatureConfig,
    FrequencyAdmission,
    RowWiseAdagrad,
    ShardedEmbedding,
    TableConfig,
    restore_tables,
    save_tables,
)
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tf import as_written, tf
from strategies import create_strategy
from strategies.mirrored import DEVICES

BATCH, STEPS = 24, 10
TABLES = [
    TableConfig("hot", 3_000, 8, RowWiseAdagrad(0.1)),
    TableConfig("columns", 200, 8, RowWiseAdagrad(0.1)),
    TableConfig("everywhere", 50, 4, Adam(0.1)),
    TableConfig("open", None, 8, Adam(0.1), admission=FrequencyAdmission(2, 1 << 14)),
]


def features():
    return {table.name: FeatureConfig(table, "mean") for table in TABLES}


def _plan(ranks):
    everyone = tuple(range(ranks))
    widths = tuple(len(piece) for piece in np.array_split(np.arange(8), ranks))
    shardings = [
        TableSharding("hot", "hot_cold", everyone, (), 5, (0, 1, 2, 3, 7)),
        TableSharding("columns", "column_wise", everyone, widths),
        TableSharding("everywhere", "data_parallel", everyone),
        TableSharding("open", "row_wise", everyone),
    ]
    return ShardingPlan(ranks, {sharding.table: sharding for sharding in shardings})


def _batch(step, rank, size):
    rng = np.random.default_rng(step)
    rows = slice(BATCH * rank // size, BATCH * (rank + 1) // size)
    sizes = {table.name: table.vocabulary_size or 400 for table in TABLES}
    return {name: tf.constant(np.minimum(rng.zipf(1.2, (BATCH, 3)), most)[rows] - 1) for name, most in sizes.items()}


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    joined = "multi_worker" if "TF_CONFIG" in os.environ else "single"
    joined = "horovod" if "HOROVOD_RANK" in os.environ else joined
    save_tables(trained(create_strategy("mirrored" if DEVICES in os.environ else joined), *sys.argv[2:]), sys.argv[1])


def trained(strategy, source=None):
    """The layer; source: tables that are read instead."""
    communicator = strategy.communicator
    with strategy.scope():
        layer = ShardedEmbedding(
            features(), communicator=communicator, plan=_plan(communicator.size) if communicator.size > 1 else None
        )

    def one(inputs):
        with tf.GradientTape() as tape:
            vectors = layer(inputs, training=True)
            loss = tf.add_n([tf.reduce_sum(tf.square(vector - 1.0)) for vector in vectors.values()]) / BATCH
        tape.gradient(loss, layer.trainable_variables)

    @tf.function(reduce_retracing=True)
    @as_written
    def step(inputs):
        strategy.run(one, inputs)

    def batches(rank):
        return (_batch(k, rank, communicator.size) for k in range(STEPS))

    if source is not None:
        restore_tables(layer, source)
    else:
        for inputs in strategy.distribute([batches(rank) for rank in strategy.ranks]):
            step(inputs)
    return layer


if __name__ == "__main__":
    main()
