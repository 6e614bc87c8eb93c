"""The two-tower model with each encoder: the same at the same step, whole after construction, able to learn, the same
on any number of ranks."""

from pathlib import Path

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.tensors import to_tensors
from foundation.tf import keras, tf
from retrieval.config import RetrievalConfig
from retrieval.interests import scores_of
from retrieval.two_tower import TwoTower, falling
from tests.embeddings.sharding.groups import run_group
from tests.retrieval.encoders.ranks_program import OPTIONS, SASREC, SMALL

ENCODERS = ["gru", "attention", "multi_interest"]
PROGRAM = Path(__file__).parent / "ranks_program.py"


def two_tower(world, encoder: str, steps: int = 1, **options) -> TwoTower:
    config = RetrievalConfig.model_validate({**SMALL, **OPTIONS[encoder], **options})
    return TwoTower(world.query_features, world.item_features, config, seed=3, steps=steps)


def step_of(number: int) -> tf.Tensor:
    return tf.constant(number, tf.int64)


def loss_at(world, encoder: str, step: int, batch: dict) -> float:
    model = two_tower(world, encoder)
    return float(model.losses_of(model.begin(batch, step_of(step)), step_of(step))["loss"])


@pytest.mark.parametrize("encoder", ENCODERS)
class TestEveryEncoder:
    def test_the_loss_is_a_function_of_batch_and_step(self, world, encoder):
        batch = to_tensors(world.batch(16, 0))
        at = [loss_at(world, encoder, step, batch) for step in (5, 6, 5)]
        assert at[0] == at[2] != at[1]

    def test_every_variable_exists(self, world, encoder):
        model = two_tower(world, encoder)
        names = [variable.name for variable in model.variables]
        model.losses_of(model.begin(to_tensors(world.batch(8, 0)), step_of(0)), step_of(0))
        assert [variable.name for variable in model.variables] == names

    def test_a_query_does_not_depend_on_its_neighbours_and_may_have_no_history(self, world, encoder):
        model, users, lengths = two_tower(world, encoder), np.arange(4), np.array([0, 5, 2, 9])
        together = model.embed_queries(to_tensors(world.queries(users, lengths))).numpy()
        assert together.shape == ((4, 3, 12) if encoder == "multi_interest" else (4, 12))
        assert (together[..., -1] == 1).all(), "against the candidates' bias"
        for row in users:
            inputs = world.queries(users[: row + 1], lengths[: row + 1])
            inputs["user_age"] = world.queries(users)["user_age"][: row + 1]  # which is of a row among all
            np.testing.assert_allclose(model.embed_queries(to_tensors(inputs))[row], together[row], atol=1e-5)

    @pytest.mark.long
    def test_learns_what_a_user_likes(self, world, encoder):
        steps = 60
        model = two_tower(world, encoder, steps)
        optimizer = keras.optimizers.Adam(falling(0.02, steps))

        @tf.function(reduce_retracing=True)
        def train(batch, step):
            with tf.GradientTape() as tape:
                loss = model.losses_of(model.begin(batch, step), step)["loss"]
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        losses = [float(train(to_tensors(world.batch(64, step)), step_of(step))) for step in range(steps)]
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
        users = np.arange(len(world.tastes))
        newcomers = {**world.queries(users), "user_id": np.zeros(len(users), np.int64)}  # known by their histories
        items = model.embed_items(to_tensors(world.items(np.arange(len(world.topics))))).numpy()
        best = np.argmax(scores_of(model.embed_queries(to_tensors(newcomers)).numpy(), items), axis=1)
        assert (world.topics[best] == world.tastes).mean() > 0.9


class TestSasRec:
    """No features but ids, no towers: the vectors of Kang and McAuley's model."""

    def test_a_candidate_is_its_embedding_and_a_query_the_encoders_output(self, world):
        model = two_tower(world, "attention", **SASREC)
        items = np.arange(9)
        table = model.embedding.table("item_id").numpy()
        np.testing.assert_array_equal(model.embed_items(to_tensors(world.items(items))), table[items + 1])
        assert set(model.embedding.features) == {"history_item_id", "item_id"}
        assert set(model.embedding.tables) == {"item_id"}
        queries = world.queries(np.arange(3))
        looked_up = {"history_item_id": to_tensors(queries)["history_item_id"]}
        activations = model.embedding(looked_up)
        np.testing.assert_array_equal(model.embed_queries(to_tensors(queries)), model._encoder(activations))

    def test_one_table_learns_from_both_sides(self, world):
        model = two_tower(world, "attention", **SASREC)
        before = model.embedding.table("item_id").numpy()
        batch = world.batch(4, 0)
        with tf.GradientTape() as tape:
            loss = model.losses_of(model.begin(to_tensors(batch), step_of(0)), step_of(0))["loss"]
        tape.gradient(loss, model.trainable_variables)
        moved = np.flatnonzero(np.abs(model.embedding.table("item_id").numpy() - before).max(1) > 0)
        assert set(moved) == set(batch["history_item_id"].values) | set(batch["item_id"])

    def test_widths_that_do_not_fit_are_said(self, world):
        with pytest.raises(UserError, match=r"inputs as wide as retrieval\.dim, 12; the query's are 8 wide") as caught:
            two_tower(world, "attention", **{**SASREC, "dim": 12})
        assert "retrieval.item_features" in caught.value.remedy

    def test_an_input_that_is_not_there_is_said(self, world):
        with pytest.raises(UserError, match=r"retrieval\.item_features: .*'item_topics'; did you mean 'item_topic'"):
            two_tower(world, "bag", item_features=["item_topics"])


@pytest.mark.long
@pytest.mark.parametrize("scenarios", [("sasrec",), ("gru", "attention", "multi_interest")])
def test_two_ranks_train_what_one_does(tmp_path, scenarios):
    """Law 1, each with half of every batch and of every table."""
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        run_group(PROGRAM, [str(tmp_path / str(ranks)), *scenarios], ranks)
    for name in scenarios:
        with np.load(tmp_path / "1" / f"{name}-0.npz") as alone:
            for rank in range(2):
                with np.load(tmp_path / "2" / f"{name}-{rank}.npz") as together:
                    np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-5)
                    scale = np.abs(alone["scores"]).max()  # of untrained vectors, which a layer norm makes large
                    np.testing.assert_allclose(together["scores"], alone["scores"], atol=1e-4 * scale)
