"""Trainings on parameter servers, or in one process, for the tests to compare.

python parameter_server_program.py OUT     under TF_CONFIG, as the coordinator
"""

import sys
from pathlib import Path

import numpy as np

from embeddings import SGD, Adagrad, Adam, FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.checkpoints import restore_tables, save_tables
from embeddings.parameter_server import MOST_AWAITED
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tf import as_written, keras, tf
from strategies import ParameterServerStrategy

BATCH, USERS, ITEMS = 64, 3_000, 200
ONE_BY_ONE, QUALITY_STEPS, HELD_OUT = 20, 300, 1_000_000


def features(optimizer):
    users = TableConfig("users", USERS, 8, optimizer, seed=3)
    items = TableConfig("items", ITEMS, 8, Adam(0.01, clipvalue=0.5), precision="bfloat16")
    single = TableConfig("single", 1, 8, SGD(0.1))
    return {
        "user": FeatureConfig(users, "sum"),
        "friends": FeatureConfig(users, "mean"),
        "item": FeatureConfig(items, "sqrtn"),
        "single": FeatureConfig(single, None),
    }


def scenarios():
    """(name, its layer's features, plan)."""
    for optimizer in (RowWiseAdagrad(0.1), Adagrad(0.1, clipnorm=0.05)):
        yield type(optimizer).__name__, features(optimizer), None
    plan = ShardingPlan(
        2,
        {
            "users": TableSharding("users", "table_row_wise", (1, 0)),
            "items": TableSharding("items", "table_wise", (1,)),
            "single": TableSharding("single", "table_wise", (0,)),
        },
    )
    yield "planned", features(RowWiseAdagrad(0.1)), plan


def batch(k):
    rng = np.random.default_rng(k)
    user = np.minimum(rng.zipf(1.3, BATCH), USERS) - 1
    lengths = rng.integers(0, 4, BATCH)
    friends = np.minimum(rng.zipf(1.2, lengths.sum()), USERS) - 1
    item, weights = rng.integers(0, ITEMS, (BATCH, 2)), rng.uniform(0.5, 2, (BATCH, 2)).astype(np.float32)
    inputs = {
        "user": tf.constant(user),
        "friends": tf.RaggedTensor.from_row_lengths(friends, lengths),
        "item": (tf.constant(item), tf.constant(weights)),
        "single": tf.zeros([BATCH], tf.int64),
    }
    taste = np.sin(user * 0.7) + 0.5 * np.cos(item.sum(1) * 0.3)
    label = taste + rng.normal(size=BATCH) * 0.1
    return inputs, label.astype(np.float32)


class Model:
    """Made in a strategy's scope."""

    def __init__(self, of, plan=None):
        self.layer = ShardedEmbedding(of, plan=plan)
        self.dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        self.dense.build((None, 32))
        self.variables = [*self.dense.trainable_variables, self.layer.gradient_trap]
        self.optimizer = keras.optimizers.Adam(0.01)
        self.optimizer.build(self.variables)

    def loss(self, inputs, label, training):
        vectors = self.layer(inputs, training=training)
        joined = tf.concat([vectors[name] for name in ("user", "friends", "item", "single")], 1)
        score = self.dense(joined)[:, 0] + tf.reduce_sum(vectors["user"] * vectors["item"], 1)
        return tf.reduce_mean(tf.square(score - label))

    @as_written
    def step(self, inputs, label):
        with tf.GradientTape() as tape:
            loss = self.loss(inputs, label, True)
        gradients = tape.gradient(loss, self.variables)
        self.optimizer.apply_gradients(zip(gradients, self.variables, strict=True))
        return loss

    def judged(self):
        """The loss on examples that nothing was trained on."""
        losses = [self.loss(*batch(HELD_OUT + k), False) for k in range(20)]
        return float(np.mean([loss.numpy() for loss in losses]))


def whole(layer):
    """Every table's rows, by id, from whatever parts of it there are."""
    tables = {name: np.full((c.vocabulary_size, c.dim), np.nan, np.float32) for name, c in layer.table_configs.items()}
    for shard in layer.shards():
        everyone = np.arange(shard.config.vocabulary_size)
        ids = everyone[np.isin(everyone % 1024, shard.buckets)]
        rows = tf.gather(shard.held.rows, shard.rows_of(ids))
        tables[shard.config.name][ids] = tf.cast(rows, tf.float32).numpy()
    return tables


def main():
    out = Path(sys.argv[1])
    strategy = ParameterServerStrategy()
    for name, of, plan in scenarios():
        with strategy.scope():
            model = Model(of, plan)
        first = whole(model.layer)
        losses = [strategy.schedule(model.step, *batch(k)).get().numpy() for k in range(ONE_BY_ONE)]
        last = {f"{table}-last": rows for table, rows in whole(model.layer).items()}
        updates = {
            f"{table}-updates": held.updates.numpy()
            for table, held in ((table, model.layer.held(table)) for table in model.layer.tables)
        }
        devices = [held.device for held in model.layer.tables.values()]
        np.savez(
            out / f"{name}.npz",
            losses=losses,
            devices=devices,
            **first,
            **last,
            **{k.replace("/", "+"): v for k, v in updates.items()},
        )
        print("done", name, flush=True)
    save_tables(model.layer, out / "saved")
    with strategy.scope():
        again = Model(of)
    restore_tables(again.layer, out / "saved")
    np.savez(out / "restored.npz", **whole(again.layer))
    _asynchronous(strategy, out)
    _refusals(strategy, out)
    print("finished", flush=True)


def _asynchronous(strategy, out):
    with strategy.scope():
        model = Model(features(RowWiseAdagrad(0.1)))
    losses = [float(loss) for loss in strategy.results(model.step, map(batch, range(QUALITY_STEPS)))]
    updates = [int(model.layer.held(f"server_{server}/users").updates.numpy()) for server in (0, 1)]
    np.savez(
        out / "asynchronous.npz",
        losses=losses,
        judged=model.judged(),
        iterations=model.optimizer.iterations.numpy(),
        updates=updates,
    )


def _refusals(strategy, out):
    said = {}

    def told(name, call):
        try:
            call()
            said[name] = "nothing"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"

    def make(table, plan=None):
        with strategy.scope():
            return ShardedEmbedding({"f": FeatureConfig(table, "sum")}, plan=plan)

    told("dynamic", lambda: make(TableConfig("free", None, 4)))
    table = TableConfig("table", 100, 4)
    everywhere = ShardingPlan(2, {"table": TableSharding("table", "data_parallel", (0, 1))})
    told("replicated", lambda: make(table, everywhere))
    told("ranks", lambda: make(table, ShardingPlan(1, {"table": TableSharding("table", "table_wise", (0,))})))
    layer = make(table)
    ids = tf.constant([1, 2, 100])

    def outside(ids):
        return tf.reduce_sum(layer({"f": ids}, training=False)["f"])

    told("outside", lambda: strategy.schedule(outside, ids).get())
    inside = float(strategy.schedule(outside, ids[:2]).get())  # the strategy is as good as before
    assert np.isfinite(inside)

    def twice(ids):
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_sum(layer({"f": ids}, training=True)["f"])
        tape.gradient(loss, layer.gradient_trap)
        tape.gradient(loss, layer.gradient_trap)
        return loss

    told("twice", lambda: strategy.schedule(twice, ids[:2]).get())

    def two_calls(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer({"f": ids}, training=True)["f"] + layer({"f": ids}, training=True)["f"])
        tape.gradient(loss, layer.gradient_trap)
        return loss

    told("two_calls", lambda: strategy.schedule(two_calls, ids[:2]).get())

    def never(ids):
        return tf.reduce_sum(layer({"f": ids}, training=True)["f"])

    told("never", lambda: list(strategy.results(never, [(ids[:2],)] * (MOST_AWAITED + 1))))
    np.savez(out / "refusals.npz", **said)


if __name__ == "__main__":
    main()
