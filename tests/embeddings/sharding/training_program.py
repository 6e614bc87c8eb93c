"""One rank's training: run as a process a rank, it leaves losses and tables for the tests to compare.

    python training_program.py OUT STEPS SCENARIO...     under TF_CONFIG, or alone, or of HEADRACE_DEVICES replicas

A scenario is a sharding type, then perhaps "+dynamic", "+rejecting", a dynamic table that admits by frequency,
"+ahead", each step begun before the one before is taken, "+pooled", bags that owners pool, or "+broken", an exchange
that mixes up rows.
"""

import os
import sys
from pathlib import Path

import numpy as np

from embeddings import Adagrad, FeatureConfig, FrequencyAdmission, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tf import as_written, keras, tf
from strategies import MirroredStrategy, create_strategy
from strategies.mirrored import DEVICES

BATCH, ROWS, SECOND_ROWS = 32, 3_000, 40


def main() -> None:
    out, steps, scenarios = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    joined = "multi_worker" if "TF_CONFIG" in os.environ else "single"
    strategy = create_strategy("mirrored" if DEVICES in os.environ else joined)
    rank = 0 if isinstance(strategy, MirroredStrategy) else strategy.communicator.rank
    for scenario in scenarios:
        np.savez(out / f"{scenario}-{rank}.npz", **train(strategy, scenario, steps))


def _break(communicator):
    sound = communicator.all_to_all
    communicator.all_to_all = lambda rows, sizes: sound(
        tf.reverse(rows, [0]) if rows.dtype == tf.float32 else rows, sizes
    )


def _tables(how):
    policies = {"admission": FrequencyAdmission(2)} if how == "rejecting" else {}
    first = TableConfig("first", None if how in ("dynamic", "rejecting") else ROWS, 16, RowWiseAdagrad(0.1), **policies)
    second = TableConfig("second", SECOND_ROWS, 8, Adagrad(0.2, clipnorm=0.5))
    return first, second


def _plan(kind, tables, ranks):
    chosen = {}
    for table in tables:
        everyone = tuple(range(ranks))
        if kind == "column_wise":
            cuts = np.arange(ranks + 1) * (table.dim // 4) // ranks * 4
            cuts[-1] = table.dim
            holders = [rank for rank in everyone if cuts[rank + 1] > cuts[rank]]
            widths = tuple(int(cuts[rank + 1] - cuts[rank]) for rank in holders)
            chosen[table.name] = TableSharding(table.name, kind, tuple(holders), widths)
        elif kind == "table_wise":
            chosen[table.name] = TableSharding(table.name, kind, (ranks - 1,))
        elif kind == "hot_cold":
            hot_ids = () if table.vocabulary_size else (0, 1, 2, 5, 9)
            chosen[table.name] = TableSharding(table.name, kind, everyone, (), len(hot_ids) or 7, hot_ids)
        else:
            chosen[table.name] = TableSharding(table.name, kind, everyone)
    return ShardingPlan(ranks, chosen)


def _batch(k, rank, size, pooled):
    """This rank's slice of global batch k. pooled: long bags of ids that hardly repeat."""
    rng = np.random.default_rng(k)
    lengths = rng.integers(0, 30 if pooled else 5, BATCH)
    drawn = rng.integers(1, ROWS + 1, lengths.sum()) if pooled else rng.zipf(1.3, lengths.sum())
    history = np.minimum(drawn, ROWS) - 1
    item = np.minimum(rng.zipf(1.2, BATCH), ROWS) - 1
    other, weights = rng.integers(0, SECOND_ROWS, (BATCH, 3)), rng.uniform(0.5, 2, (BATCH, 3)).astype(np.float32)
    label = rng.normal(size=BATCH).astype(np.float32)
    rows = slice(BATCH * rank // size, BATCH * (rank + 1) // size)
    ragged = tf.RaggedTensor.from_row_lengths(history, lengths)[rows]
    inputs = {
        "history": ragged,
        "item": tf.constant(item[rows]),
        "other": (tf.constant(other[rows]), tf.constant(weights[rows])),
    }
    return inputs, tf.constant(label[rows])


def _batches(strategy, steps, pooled):
    """What the strategy gives its step, from each of its ranks' slices."""
    communicator = strategy.communicator

    def of_rank(rank):
        return (_batch(k, rank, communicator.size, pooled) for k in range(steps))

    return strategy.distribute([of_rank(rank) for rank in strategy.ranks])


def _ahead(batches, begin):
    """The same batches, each begun before the one before is given."""
    begun = None
    for inputs, label in batches:
        following = begin(inputs), label
        if begun is not None:
            yield begun
        begun = following
    yield begun


def train(strategy, scenario, steps):
    """Losses, rows of the tables and weights, by name."""
    kind, _, how = scenario.partition("+")
    communicator = strategy.communicator
    if how == "broken":
        _break(communicator)
    tables = _tables(how)
    features = {
        "history": FeatureConfig(tables[0], "mean"),
        "item": FeatureConfig(tables[0], "sum"),
        "other": FeatureConfig(tables[1], "sqrtn"),
        "rows": FeatureConfig(tables[0], None),
        "second_rows": FeatureConfig(tables[1], None),
    }
    plan = _plan(kind, tables, communicator.size) if communicator.size > 1 else None
    with strategy.scope():
        layer = ShardedEmbedding(features, plan=plan, communicator=communicator)
        dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        dense.build((None, 40))
        optimizer = keras.optimizers.SGD(0.05)
        optimizer.build([*dense.trainable_variables, layer.gradient_trap])

    form = {}

    def begin(inputs):
        form[0] = layer.begin(inputs, training=True)
        return tf.nest.flatten(form[0], expand_composites=True)

    def one(batch):
        inputs, label = batch
        if isinstance(inputs, list):
            inputs = tf.nest.pack_sequence_as(form[0], inputs, expand_composites=True)
        with tf.GradientTape() as tape:
            vectors = layer(inputs, training=True)
            joined = tf.concat([vectors["history"], vectors["item"], vectors["other"]], 1)
            loss = tf.reduce_sum(tf.square(dense(joined)[:, 0] - label)) / BATCH
        variables = [*dense.trainable_variables, layer.gradient_trap]
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return communicator.all_reduce(loss)

    @tf.function(reduce_retracing=True)
    @as_written
    def step(batch):
        return strategy.run(one, batch)

    batches = _batches(strategy, steps, how == "pooled")
    if how == "ahead":
        batches = _ahead(
            batches, tf.function(as_written(lambda inputs: strategy.run(begin, inputs)), reduce_retracing=True)
        )
    losses = [float(step(batch)) for batch in batches]
    if how == "pooled" and communicator.size > 1 and kind != "data_parallel":
        assert layer.traffic()["distinct/first"] < 0.6, "owners pooled no bags"  # of ids that hardly repeat

    @tf.function
    @as_written
    def read():
        asked = {"rows": tf.range(ROWS, dtype=tf.int64), "second_rows": tf.range(SECOND_ROWS, dtype=tf.int64)}
        return strategy.run(lambda: layer(asked, training=False))

    rows = read()
    return {
        "losses": np.array(losses),
        "first": rows["rows"].numpy(),
        "second": rows["second_rows"].numpy(),
        "dense": dense.kernel.numpy(),
    }


if __name__ == "__main__":
    main()
