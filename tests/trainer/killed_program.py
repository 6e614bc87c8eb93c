"""One rank's training under every sharding type, saved often and killed at a random moment: run again it goes on.

    python killed_program.py OUT STEPS SEED SCENARIO...     under TF_CONFIG

With a SEED from 0 on, one of the ranks, some time after its first step, ends itself with SIGKILL. Scenarios are those
of tests/embeddings/sharding/training_program.py. What is done leaves OUT/SCENARIO-RANK.npz: losses, and all that the
rank's last checkpoint holds.
"""

import os
import random
import signal
import sys
import threading
from pathlib import Path

import numpy as np

from embeddings import FeatureConfig, ShardedEmbedding
from embeddings.dense import DenseCheckpoint
from foundation.files import atomic_file
from foundation.tf import keras, tf
from strategies import create_strategy
from tests.embeddings.sharding.training_program import BATCH, _batch, _plan, _tables
from trainer.checkpoint import CheckpointStore
from trainer.supervisor.member import join
from trainer.world import World

SAVED_EVERY = 3


def main() -> None:
    out, steps, seed, scenarios = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    with join({}) as membership:
        world = World(create_strategy("multi_worker"), membership)
        for scenario in scenarios:
            of_rank = [out / f"{scenario}-{rank}.npz" for rank in range(world.size)]
            if not world.agreed(int(all(file.exists() for file in of_rank))):
                results, own = _train(world, scenario, steps, out / scenario, seed), of_rank[membership.rank]
                with atomic_file(own) as temporary, temporary.open("wb") as file:
                    np.savez(file, **results)
            world.meet()


def _die_soon(seed: int, rank: int) -> None:
    chance = random.Random(seed)
    if chance.randrange(2) == rank:
        delay = chance.uniform(0.05, 2.0)
        threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()


def _train(world, scenario, steps, folder, seed):
    kind, _, how = scenario.partition("+")
    communicator = world.communicator
    tables = _tables(how)
    features = {
        "history": FeatureConfig(tables[0], "mean"),
        "item": FeatureConfig(tables[0], "sum"),
        "other": FeatureConfig(tables[1], "sqrtn"),
    }
    with world.strategy.scope():
        layer = ShardedEmbedding(features, plan=_plan(kind, tables, communicator.size), communicator=communicator)
        dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        dense.build((None, 40))
        optimizer = keras.optimizers.Adagrad(0.05)
        optimizer.build([*dense.trainable_variables, layer.gradient_trap])

    def one(inputs, label):
        with tf.GradientTape() as tape:
            vectors = layer(inputs, training=True)
            joined = tf.concat([vectors["history"], vectors["item"], vectors["other"]], 1)
            loss = tf.reduce_sum(tf.square(dense(joined)[:, 0] - label)) / BATCH
        variables = [*dense.trainable_variables, layer.gradient_trap]
        gradients = [communicator.all_reduce(gradient) for gradient in tape.gradient(loss, variables)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        return communicator.all_reduce(loss)

    step = tf.function(lambda inputs, label: world.strategy.run(one, inputs, label), reduce_retracing=True)
    store = CheckpointStore(folder, DenseCheckpoint(dense=dense, optimizer=optimizer), layer, world, keep=2)
    last = world.agreed(store.all()[-1].step if store.all() else 0)
    losses = store.restore(store.at(last))["losses"] if last else []
    with store:
        for k in range(last, steps):
            inputs, label = _batch(k, communicator.rank, communicator.size, how == "pooled")
            losses.append(float(step(inputs, label)))
            if k == last and seed >= 0:
                _die_soon(seed, communicator.rank)
            if (k + 1) % SAVED_EVERY == 0 or k + 1 == steps:
                store.save(k + 1, {"losses": losses}, None)
        store.wait()
    held = {
        f"{shard.config.name}/{shard.part}/{name}": variable.numpy()
        for shard in layer.shards()
        if shard.static
        for name, variable in shard.held.variables.items()
    }
    tables = store.at(steps).path / "tables" / f"rank-{communicator.rank:05d}"
    files = {
        f"file/{file.relative_to(tables)}": np.frombuffer(file.read_bytes(), np.uint8)
        for file in tables.rglob("*")
        if file.is_file()
    }
    dense_variables = {f"dense/{each.name}": each.numpy() for each in [*dense.weights, *optimizer.variables()]}
    return {"losses": np.array(losses), **held, **files, **dense_variables}


if __name__ == "__main__":
    main()
