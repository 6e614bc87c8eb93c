"""One rank's training of two-tower models: run as a process a rank, it leaves losses and vectors to be compared.

python ranks_program.py OUT SCENARIO...      under TF_CONFIG, or alone
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tensors import to_tensors
from foundation.tf import keras, tf
from retrieval.config import RetrievalConfig
from retrieval.interests import scores_of
from retrieval.two_tower import TwoTower
from strategies import create_strategy
from strategies.share import summed
from tests.retrieval.conftest import World, topical_world

STEPS, BATCH = 5, 24
SMALL = {"embedding_dim": 8, "units": (16,), "dim": 12, "embedding_learning_rate": 0.2}
OPTIONS: dict[str, dict[str, Any]] = {
    "bag": {},
    "gru": {"encoder": "gru", "gru": {"units": 10, "dropout": 0.2}},
    "attention": {"encoder": "attention", "attention": {"units": 10, "length": 8, "dropout": 0.2}},
    "multi_interest": {"encoder": "multi_interest", "multi_interest": {"interests": 3, "units": 10, "length": 8}},
}
SASREC: dict[str, Any] = {
    "query_features": ["history_item_id"],
    "item_features": ["item_id"],
    "tower": "identity",
    "dim": 8,
    "id_dropout": 0.0,
    "attention": {"blocks": 2, "length": 8, "dropout": 0.2},
}
OBJECTIVES = {"objectives": [{"name": "click"}, {"name": "watched", "weight": 2.0}]}
SCENARIOS = {
    "gru": OPTIONS["gru"],
    "attention": OPTIONS["attention"],
    "multi_interest": OPTIONS["multi_interest"],
    "sasrec": {**OPTIONS["attention"], **SASREC, **OBJECTIVES},
}


def main() -> None:
    out, scenarios = Path(sys.argv[1]), sys.argv[2:]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = create_strategy("multi_worker" if "TF_CONFIG" in os.environ else "single")
    world = topical_world()
    for name in scenarios:
        config = RetrievalConfig.model_validate({**SMALL, **SCENARIOS[name]})
        np.savez(out / f"{name}-{strategy.communicator.rank}.npz", **_train(strategy, world, config))


def _batch(world: World, k: int, rank: int, ranks: int) -> dict[str, Any]:
    """A rank's slice of global batch k, whose histories are of any length."""
    whole = world.batch(BATCH, seed=k, longest=9)
    rng = np.random.default_rng(k)
    whole |= {"reward_click": np.ones(BATCH, np.float32), "reward_watched": rng.uniform(0, 2, BATCH).astype(np.float32)}
    rows = np.arange(BATCH * rank // ranks, BATCH * (rank + 1) // ranks)
    return to_tensors({name: v.take(rows) if hasattr(v, "row_splits") else v[rows] for name, v in whole.items()})


def _train(strategy: Any, world: World, config: RetrievalConfig) -> dict[str, np.ndarray]:
    communicator = strategy.communicator
    plan = None
    if communicator.size > 1:
        everyone = tuple(range(communicator.size))
        tables = {"user_id", "item_id", "item_topic"} if config.query_features is None else {"item_id"}
        plan = ShardingPlan(communicator.size, {t: TableSharding(t, "row_wise", everyone) for t in tables})
    with strategy.scope():
        features = (world.query_features, world.item_features)
        model = TwoTower(*features, config, seed=3, steps=STEPS, communicator=communicator, plan=plan)
        optimizer = keras.optimizers.SGD(0.1)  # Adam scales rounding up, where a gradient is nearly nothing else
        optimizer.build(model.trainable_variables)

    def one(batch: dict[str, Any], step: tf.Tensor) -> list[tf.Tensor]:
        begun = model.begin(batch, step)
        with tf.GradientTape() as tape:
            losses = model.losses_of(begun, step)
        variables = model.trainable_variables
        gradients = tape.gradient(losses["loss"], variables)
        *gradients, of_batch = summed(communicator, [*gradients, tf.stack([losses[name] for name in sorted(losses)])])
        optimizer.apply_gradients(zip(gradients, variables, strict=True), skip_gradients_aggregation=True)
        return of_batch

    @tf.function(reduce_retracing=True)
    def train(batch: dict[str, Any], step: tf.Tensor) -> tf.Tensor:
        return strategy.run(one, batch, step)

    slices = (_batch(world, k, communicator.rank, communicator.size) for k in range(STEPS))
    losses = [train(batch, tf.constant(k, tf.int64)).numpy() for k, batch in enumerate(slices)]
    queries = tf.function(lambda given: strategy.run(model.embed_queries, given))
    items = tf.function(lambda given: strategy.run(model.embed_items, given))
    asked = queries(to_tensors(world.queries(np.arange(7), np.arange(7)))).numpy()
    scores = scores_of(asked, items(to_tensors(world.items(np.arange(len(world.topics))))).numpy())
    return {"losses": np.array(losses), "scores": scores}


if __name__ == "__main__":
    main()
