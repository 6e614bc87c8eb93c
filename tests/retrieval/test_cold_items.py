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

EPOCHS, HISTORY = 5, 30


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


@pytest.mark.long
def test_a_new_item_is_found_by_its_features_for_the_user_it_is_for(log):
    """Better than by chance, and than what is ranked first for another user: what is learned of a new item is more than
    that it is new, short or of a topic that all like."""
    space, train, later = log
    model = trained(space, train, id_dropout=0.3)
    now = int(later.times[0])
    new = np.flatnonzero(space.item_inputs(np.arange(len(space.items)), now)["item_id"] == 0)
    assert not np.isin(new, train.items).any()
    rows = np.isin(later.items, new) & np.isin(later.users, train.users)
    users, items = later.users[rows], later.items[rows]
    assert len(users) > 200
    queries = space.query_inputs(users, Histories(train).before(users, np.full(len(users), now), HISTORY))
    candidates = model.embed_items(to_tensors(space.item_inputs(new, now))).numpy()
    scores = model.embed_queries(to_tensors(queries)).numpy() @ candidates.T
    most = len(new) // 10

    def found(scores):
        own = scores[np.arange(len(users)), np.searchsorted(new, items)]
        return float(((scores > own[:, None]).sum(1) < most).mean())

    others = float(np.mean([found(np.roll(scores, turn, axis=0)) for turn in (7, 31, 101)]))
    figures = f"{found(scores):.3f}, for others {others:.3f}, chance {most / len(new):.3f}"
    print(f"{len(users)} likes of {len(new)} new items: {figures}")
    assert found(scores) > 2 * most / len(new)
    assert found(scores) > 1.3 * others
