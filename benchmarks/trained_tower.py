"""Vectors of a two-tower model trained on a simulated world, written by a process of its own.

`python -m benchmarks.trained_tower FOLDER JSON`: simulates the world unless its log is there, trains, writes
FOLDER/vectors.npy [items, dim] and FOLDER/queries.npy [Q, dim] float32. JSON: {"world": the simulation's configuration,
"dim", "queries", "logs": folder that logs are kept in}.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from foundation.files import atomic_directory
from foundation.progress import progress, say
from foundation.tensors import to_tensors
from foundation.tf import keras, tf
from inputs.batches import retrieval_batches
from inputs.config import InputsConfig
from inputs.dataset import Dataset
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.simulate.config import SimulateConfig
from inputs.simulate.world import simulate
from inputs.splits import Split
from retrieval.config import RetrievalConfig
from retrieval.two_tower import TwoTower, falling
from retrieval.vectors import Vectors

SEED = 0
HISTORY_LENGTH = 50
# Of the demo's job: most items are seen a handful of times.
TRAINED = RetrievalConfig(epochs=1, embedding_learning_rate=0.02, id_dropout=0.3)


def main() -> None:
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    config = SimulateConfig(**asked["world"])
    dataset = _world(config, Path(asked["logs"]))
    split = Split.by_share(dataset, validation=0.05, test=0.05)
    space = FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))
    interactions = Interactions.from_dataset(dataset, space, None)
    space.follow(interactions)
    histories = Histories(interactions)
    model = _trained(space, interactions.between(0, split.train_end), histories, asked["dim"])
    vectors, now = Vectors(model, space), int(dataset.time_range[1]) + 1
    users = np.random.default_rng(SEED).permutation(np.unique(interactions.users))[: asked["queries"]]
    queries = vectors.queries(users, histories.before(users, np.full(len(users), now), HISTORY_LENGTH))
    with atomic_directory(folder) as partial:
        np.save(partial / "vectors.npy", vectors.candidates(now))
        np.save(partial / "queries.npy", queries)


def _world(config: SimulateConfig, logs: Path) -> Dataset:
    """The world's log, simulated once."""
    name = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    if not (logs / name).exists():
        logs.mkdir(parents=True, exist_ok=True)
        with progress("simulating", config.impressions, "impressions") as meter:
            simulate(config, logs / name, meter.advance)
    return Dataset.open(logs / name)


def _trained(space: FeatureSpace, positives: Interactions, histories: Histories, dim: int) -> TwoTower:
    """The model after one pass over the training period."""
    config = TRAINED.model_copy(update={"dim": dim})
    batches = retrieval_batches(space, positives, histories, HISTORY_LENGTH, config.batch_size, SEED)
    keras.utils.set_random_seed(SEED)
    model = TwoTower(space.query_features, space.item_features, config, SEED, len(batches))
    optimizer = keras.optimizers.Adam(falling(config.learning_rate, len(batches)))

    @tf.function(reduce_retracing=True)
    def step(batch: dict[str, Any], number: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.losses_of(model.begin(batch, number), number)["loss"]
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step(to_tensors(batch), tf.constant(k, tf.int64))) for k, batch in enumerate(batches.iterate(0))]
    say(f"two-tower, dim {dim}: {len(losses)} steps, loss {losses[0]:.3f} to {np.mean(losses[-20:]):.3f}")
    return model


if __name__ == "__main__":
    main()
