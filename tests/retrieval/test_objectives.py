"""Objectives: what a positive is worth, from the log's labels to the loss."""

import numpy as np
import pyarrow as pa
import pytest

from foundation.errors import UserError
from foundation.tensors import to_tensors
from foundation.tf import tf
from inputs.batches import FILLED_ITEM, retrieval_batches
from inputs.config import InputsConfig
from inputs.dataset import Dataset, DatasetWriter
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.schema import Label, Positive, Schema
from inputs.splits import Split
from retrieval.config import RetrievalConfig
from retrieval.objectives import RetrievalObjective, labels_of, rewards_of
from retrieval.two_tower import TwoTower

CLICK = RetrievalObjective(name="click")
WATCHED = RetrievalObjective(name="watched", label="seconds", transform="log1p", weight=2.0)
LIKE = RetrievalObjective(name="like", label="like", weight=0.5)
SCHEMA = Schema(
    labels=(Label(name="click", kind="binary"), Label(name="seconds", kind="number"), Label(name="like", kind="binary"))
)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """(dataset, space, its events as a table in time order, clicks and others)."""
    rng, rows, day = np.random.default_rng(0), 600, 86_400
    path = tmp_path_factory.mktemp("watched") / "data"
    click = rng.integers(0, 2, rows).astype(np.float32)
    events = pa.table(
        {
            "user_id": rng.integers(1, 20, rows),
            "item_id": rng.integers(1, 30, rows),
            "timestamp": np.sort(rng.permutation(10 * day)[:rows]),
            "list_id": np.arange(rows),
            "click": click,
            "seconds": pa.array(rng.uniform(0, 900, rows), pa.float32(), mask=click == 0),
            "like": pa.array(rng.integers(0, 2, rows).astype(np.float32), mask=(click == 0) | (rng.random(rows) < 0.3)),
        }
    )
    with DatasetWriter(path, SCHEMA, "a test") as writer:
        writer.write_users(pa.table({"user_id": np.arange(1, 20)}))
        writer.write_items(pa.table({"item_id": np.arange(1, 30)}))
        writer.write_events(events)
    dataset = Dataset.open(path)
    space = FeatureSpace.fit(dataset, Split.by_share(dataset, 0.1, 0.1), InputsConfig(format="simulated"))
    return dataset, space, events.to_pandas()


class TestLabels:
    def test_come_with_the_positives_row_by_row(self, watched):
        dataset, space, events = watched
        positives = Interactions.from_dataset(dataset, space, None, ("seconds", "like"))
        clicked = events[events.click == 1]
        np.testing.assert_array_equal(positives.times, clicked.timestamp)
        for name in ("seconds", "like"):
            assert positives.labels[name].dtype == np.float32
            np.testing.assert_array_equal(positives.labels[name], clicked[name])
        middle = positives.between(int(clicked.timestamp.iloc[50]), int(clicked.timestamp.iloc[80]))
        np.testing.assert_array_equal(middle.labels["seconds"], clicked.seconds[50:80])

    def test_the_positives_own_label_may_be_one(self, watched):
        dataset, space, events = watched
        positives = Interactions.from_dataset(dataset, space, Positive(label="seconds", at_least=300), ("seconds",))
        np.testing.assert_array_equal(positives.labels["seconds"], events.seconds[events.seconds >= 300])

    def test_those_of_objectives_each_once(self):
        assert labels_of([], SCHEMA.labels) == ()
        again = RetrievalObjective(name="long", label="seconds")
        assert labels_of([CLICK, WATCHED, LIKE, again], SCHEMA.labels) == ("seconds", "like")

    def test_one_that_the_log_lacks_is_named(self):
        objective = RetrievalObjective(name="watched", label="second")
        with pytest.raises(UserError, match=r"'watched' wants the label 'second'.* did you mean 'seconds'"):
            labels_of([objective], SCHEMA.labels)


class TestRewards:
    def test_have_a_mean_of_one_and_follow_the_label(self):
        labels = {"seconds": np.array([0, np.nan, 9, 99], np.float32), "like": np.array([1, 0, np.nan, 1], np.float32)}
        rewards = rewards_of([CLICK, WATCHED, LIKE], labels, 4)
        assert all(values.dtype == np.float32 for values in rewards.values())
        np.testing.assert_array_equal(rewards["reward_click"], np.ones(4))
        np.testing.assert_allclose(rewards["reward_watched"], np.array([0, 0, 1, 2]) / 0.75, rtol=1e-6)
        np.testing.assert_allclose(rewards["reward_like"], [2, 0, 0, 2])

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1, -2, 3], r"is -2 in training positive 1 \(in time order\), and so in 1 of 3"),
            ([1, np.inf, -np.inf], "is inf in training positive 1 .* in 2 of 3"),
            ([0, np.nan, 0], "is 0 or unknown in all 3 training positives"),
        ],
    )
    def test_what_cannot_be_a_reward_is_named(self, values, message):
        with pytest.raises(UserError, match=f"objective 'like': .*{message}"):
            rewards_of([LIKE], {"like": np.array(values, np.float32)}, 3)

    @pytest.mark.parametrize(
        ("objectives", "message"),
        [
            ([{"name": "loss"}], "cannot be named 'loss'"),
            ([{"name": "a"}, {"name": "a", "label": "b"}], "two objectives are named 'a'"),
            ([{"name": "a", "weight": 0}], "greater than 0"),
            ([{"name": "a b"}], "pattern"),
        ],
    )
    def test_objectives_that_are_none_are_refused(self, objectives, message):
        with pytest.raises(ValueError, match=message):
            RetrievalConfig.model_validate({"objectives": objectives})


class TestLoss:
    OPTIONS = {"embedding_dim": 4, "units": (8,), "dim": 6, "dropout": 0.0, "id_dropout": 0.0}

    def losses(self, world, batch, objectives):
        model = TwoTower(
            world.query_features,
            world.item_features,
            RetrievalConfig.model_validate({**self.OPTIONS, "objectives": objectives}),
            seed=3,
        )
        step = tf.constant(0, tf.int64)
        return {name: float(loss) for name, loss in model.losses_of(model.begin(to_tensors(batch), step), step).items()}

    def test_is_the_weighted_mean_of_each_objectives_weighted_softmax(self, world):
        batch, rng = world.batch(16, 0), np.random.default_rng(0)
        rewards = {"click": np.ones(16), "watched": rng.uniform(0, 3, 16), "like": rng.integers(0, 2, 16)}
        by_row = []  # each row's loss, from the loss of an objective that rewards it alone
        for row in range(16):
            alone = self.losses(world, {**batch, "reward_a": np.eye(16, dtype=np.float32)[row]}, [{"name": "a"}])
            by_row.append(alone["a"])
        told = {f"reward_{name}": values.astype(np.float32) for name, values in rewards.items()}
        objectives = [{"name": "click"}, {"name": "watched", "weight": 2}, {"name": "like", "weight": 0.5}]
        losses = self.losses(world, {**batch, **told}, objectives)
        wanted = {name: float(np.dot(values, by_row)) for name, values in rewards.items()}
        for name, value in wanted.items():
            assert losses[name] == pytest.approx(value, rel=1e-5)
        assert losses["loss"] == pytest.approx(
            (wanted["click"] + 2 * wanted["watched"] + 0.5 * wanted["like"]) / 3.5, rel=1e-5
        )
        assert losses["click"] == pytest.approx(self.losses(world, batch, [])["loss"], rel=1e-5)


def test_batches_hold_the_rewards_of_their_rows(watched):
    dataset, space, _ = watched
    positives = Interactions.from_dataset(dataset, space, None, ("seconds",))
    space.follow(positives)
    rewards = rewards_of([WATCHED], positives.labels, len(positives))
    batches = retrieval_batches(space, positives, Histories(positives), 5, 64, seed=1, one_size=True, rewards=rewards)
    found = []
    for k in range(len(batches)):
        batch = batches.batch(0, k)
        there = batch["item_position"] != FILLED_ITEM
        assert (batch["reward_watched"][~there] == 0).all()
        found.append(batch["reward_watched"][there])
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.sort(rewards["reward_watched"]))
