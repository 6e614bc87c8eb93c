"""Items that training never saw are found by what they are: the simulated world's, published after training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from foundation.tensors import to_tensors
from foundation.tf import keras, tf
from inputs.batches import retrieval_batches
from inputs.config import InputsConfig
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.simulate.config import SimulateConfig
from inputs.simulate.world import simulate
from inputs.splits import Split
from retrieval.config import RetrievalConfig
from retrieval.two_tower import TwoTower, falling

EPOCHS, HISTORY = 6, 30


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> tuple[FeatureSpace, Interactions, Interactions]:
    """(space, what was liked in training, what was liked then). Nobody knows what was liked after training."""
    config = SimulateConfig(users=600, items=900, days=8, impressions=60_000, seed=3)
    dataset = simulate(config, tmp_path_factory.mktemp("cold") / "data")
    split = Split.by_share(dataset, 0.01, 0.35)
    space = FeatureSpace.fit(dataset, split, InputsConfig(format="simulated"))
    interactions = Interactions.from_dataset(dataset, space, None)
    train = interactions.between(0, split.train_end)
    space.follow(train)
    return space, train, interactions.between(split.validation_end, split.end)


def trained(space: FeatureSpace, train: Interactions, **options: Any) -> TwoTower:
    config = RetrievalConfig.model_validate(
        {"embedding_dim": 16, "dim": 32, "units": (32,), "batch_size": 256, **options}
    )
    batches = retrieval_batches(space, train, Histories(train), HISTORY, config.batch_size, seed=0)
    steps = EPOCHS * len(batches)
    model = TwoTower(space.query_features, space.item_features, config, seed=0, steps=steps)
    optimizer = keras.optimizers.Adam(falling(0.005, steps))

    @tf.function(reduce_retracing=True)
    def one(batch, step):
        with tf.GradientTape() as tape:
            loss = model.losses_of(model.begin(batch, step), step)["loss"]
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for step in range(steps):
        one(to_tensors(batches.batch(*divmod(step, len(batches)))), tf.constant(step, tf.int64))
    return model


def recall_of_new(
    model: TwoTower, space: FeatureSpace, train: Interactions, later: Interactions
) -> tuple[float, float]:
    """(the share of later likes of new items that are among a tenth of them, those which the model ranks first for the
    user; chance)."""
    new = np.setdiff1d(np.arange(len(space.items)), train.items)
    assert (space.item_inputs(new, int(later.times[0]))["item_id"] == 0).all()
    rows = np.isin(later.items, new) & np.isin(later.users, train.users)
    users, items = later.users[rows], later.items[rows]
    assert len(users) > 200
    moment = np.full(len(users), later.times[0])
    queries = space.query_inputs(users, Histories(train).before(users, moment, HISTORY))
    candidates = model.embed_items(to_tensors(space.item_inputs(new, int(later.times[0])))).numpy()
    scores = model.embed_queries(to_tensors(queries)).numpy() @ candidates.T
    own = scores[np.arange(len(users)), np.searchsorted(new, items)]
    first = len(new) // 10
    return float(((scores > own[:, None]).sum(1) < first).mean()), first / len(new)


def test_a_new_item_is_found_by_its_features_better_than_by_chance(log):
    space, train, later = log
    found, chance = recall_of_new(trained(space, train, id_dropout=0.3), space, train, later)
    print(f"{found:.3f} against {chance:.3f}")
    assert found > 1.7 * chance
