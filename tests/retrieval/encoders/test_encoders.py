"""Encoders are what their papers say, row by row, and a row's vector is its own."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from foundation.tf import tf
from inputs.entities import FeatureSpec
from retrieval.config import RetrievalConfig
from retrieval.encoders.make import encoder_of

DIM, LENGTH = 4, 6
OPTIONS = {
    "bag": {},
    "gru": {"gru": {"units": 5, "dropout": 0.5}},
    "attention": {"attention": {"units": 6, "heads": 2, "length": LENGTH, "dropout": 0.4}},
    "multi_interest": {"multi_interest": {"interests": 3, "units": 5, "attention_units": 7, "length": LENGTH}},
}
SEQUENCES = ["gru", "attention", "multi_interest"]
QUERY = {
    "user_id": FeatureSpec("user_id", "category", 9, "user_id"),
    "history_item_id": FeatureSpec("history_item_id", "categories", 31, "item_id"),
    "history_topic": FeatureSpec("history_topic", "categories", 6, "item_topic"),
    "history_tags": FeatureSpec("history_tags", "categories", 8, "item_tags"),
}
ITEM = {
    "item_id": FeatureSpec("item_id", "category", 31, "item_id"),
    "item_topic": FeatureSpec("item_topic", "category", 6, "item_topic"),
    "item_tags": FeatureSpec("item_tags", "categories", 8, "item_tags"),
}


def encoder(name: str, seed: int = 1, **more):
    options = {**OPTIONS[name], "embedding_dim": DIM, "encoder": name, **more}
    made = encoder_of(RetrievalConfig.model_validate(options), QUERY, ITEM, seed)
    rng = np.random.default_rng(seed)
    for variable in made.trainable_variables:  # biases and norms away from what they begin at, so that they show
        variable.assign_add(rng.normal(0, 0.3, variable.shape).astype(np.float32))
    return made


ENCODERS = {name: encoder(name) for name in OPTIONS}


def histories(lengths, seed: int = 0) -> dict:
    """Each row's vectors depend on the row's number and the seed alone."""
    made = {}
    for number, name in enumerate(QUERY):
        rows = [np.random.default_rng([seed, number, row]).normal(size=(n, DIM)) for row, n in enumerate(lengths)]
        flat = np.concatenate([np.zeros((0, DIM)), *rows]).astype(np.float32)
        made[name] = tf.RaggedTensor.from_row_lengths(flat, lengths)
    return made


def row_of(made: dict, row: int) -> dict:
    return {name: ragged[row : row + 1] for name, ragged in made.items()}


def seen(made: dict, row: int) -> np.ndarray:
    """[n, width] what sequence encoders read of a row, in float64."""
    return np.concatenate([made[n][row].numpy() for n in ("history_item_id", "history_topic")], 1).astype(np.float64)


def weights(made) -> dict[str, np.ndarray]:
    return {variable.name: variable.numpy().astype(np.float64) for variable in made.trainable_variables}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class TestFormulas:
    """Against a loop over a row's items in float64."""

    def test_the_bag_is_the_means_side_by_side(self):
        bag = encoder("bag")
        means = {name: tf.constant(np.random.default_rng(0).normal(size=(3, DIM)), tf.float32) for name in QUERY}
        assert bag.features == ("history_item_id", "history_topic", "history_tags")
        np.testing.assert_array_equal(bag(means), np.concatenate([means[name] for name in bag.features], 1))

    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_the_gru_is_chos(self, length):
        made = encoder("gru")
        kernel, recurrent, bias = (variable.numpy().astype(np.float64) for variable in made.trainable_variables)
        state, inputs = np.zeros(5), histories([length])
        for item in seen(inputs, 0):
            (xz, xr, xh), (hz, hr, hh) = np.split(item @ kernel + bias[0], 3), np.split(state @ recurrent + bias[1], 3)
            update, reset = sigmoid(xz + hz), sigmoid(xr + hr)
            state = update * state + (1 - update) * np.tanh(xh + reset * hh)
        np.testing.assert_allclose(made(inputs)[0], state, atol=1e-5)

    @pytest.mark.parametrize("length", [1, 3, 6, 9])
    def test_attention_is_sasrecs(self, length):
        made, heads = encoder("attention"), 2
        inputs = histories([length])
        items = seen(inputs, 0)[-LENGTH:]

        def norm(layer, x):
            scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            return scaled * layer.gamma.numpy() + layer.beta.numpy()

        def linear(layer, x):
            return x @ layer.kernel.numpy() + (layer.bias.numpy() if layer.use_bias else 0)

        x = linear(made._mapped._map, items) * math.sqrt(6) + made._positions.numpy()[-len(items) :]
        for block in made._blocks:
            y = norm(block._norms[0], x)
            q, k, v = (np.split(linear(layer, y), heads, 1) for layer in (block._query, block._key, block._value))
            hidden = np.triu(np.full((len(x), len(x)), -np.inf), 1)
            x = x + np.concatenate([softmax(q[h] @ k[h].T / math.sqrt(3) + hidden) @ v[h] for h in range(heads)], 1)
            y = norm(block._norms[1], x)
            x = x + linear(block._outer, np.maximum(linear(block._inner, y), 0))
        np.testing.assert_allclose(made(inputs)[0], norm(made._norm, x)[-1], atol=1e-4)

    @pytest.mark.parametrize("length", [1, 3, 6, 9])
    def test_multi_interest_is_comirecs(self, length):
        made = encoder("multi_interest")
        inputs = histories([length])
        items = seen(inputs, 0)[-LENGTH:] @ made._mapped._map.kernel.numpy() + made._mapped._map.bias.numpy()
        placed = items + made._positions.numpy()[-len(items) :]
        hidden = np.tanh(placed @ made._hidden.kernel.numpy() + made._hidden.bias.numpy())
        shares = softmax((hidden @ made._belongs.kernel.numpy()).T)
        assert made(inputs).shape == (1, 3, 5)
        np.testing.assert_allclose(made(inputs)[0], shares @ items, atol=1e-5)


class TestRows:
    @settings(deadline=None, max_examples=25)
    @given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6), name=st.sampled_from(SEQUENCES))
    def test_a_row_is_the_same_in_any_batch_and_padding(self, lengths, name):
        made, inputs = ENCODERS[name], histories(lengths)
        together = made(inputs).numpy()
        assert np.isfinite(together).all()
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(made(row_of(inputs, row))[0], together[row], atol=2e-5)
            if length == 0:
                assert (together[row] == 0).all()

    @pytest.mark.parametrize("name", SEQUENCES)
    def test_no_row_and_only_empty_rows(self, name):
        made = ENCODERS[name]
        of_one = made(histories([1])).shape[1:]
        assert made(histories([])).shape == (0, *of_one)
        np.testing.assert_array_equal(made(histories([0, 0])), np.zeros((2, *of_one)))

    @pytest.mark.parametrize("name", ["attention", "multi_interest"])
    def test_items_older_than_the_length_are_not_read(self, name):
        long = histories([LENGTH + 3])
        short = {n: ragged[:, 3:] for n, ragged in long.items()}
        np.testing.assert_allclose(ENCODERS[name](long), ENCODERS[name](short), atol=1e-6)

    @pytest.mark.parametrize("name", SEQUENCES)
    def test_order_is_seen_by_all_but_the_bag(self, name):
        inputs = histories([4])
        turned = {n: tf.reverse(ragged.to_tensor(), [1]) for n, ragged in inputs.items()}
        turned = {n: tf.RaggedTensor.from_tensor(dense) for n, dense in turned.items()}
        assert not np.allclose(ENCODERS[name](inputs), ENCODERS[name](turned), atol=1e-3)

    @pytest.mark.parametrize("name", SEQUENCES)
    def test_what_fills_up_a_row_gets_no_gradient_and_changes_none(self, name):
        made = ENCODERS[name]

        def gradients(rows):
            inputs = histories([3, 9])
            inputs = {n: ragged[:rows] for n, ragged in inputs.items() if n in made.features}
            flat = [ragged.flat_values for ragged in inputs.values()]
            with tf.GradientTape() as tape:
                tape.watch(flat)
                again = {n: r.with_flat_values(f) for (n, r), f in zip(inputs.items(), flat, strict=True)}
                loss = tf.reduce_sum(tf.square(made(again)[0]))
            return [g.numpy()[:3] for g in map(tf.convert_to_tensor, tape.gradient(loss, flat))]

        for alone, beside in zip(gradients(1), gradients(2), strict=True):
            assert np.abs(alone).max() > 0
            np.testing.assert_allclose(alone, beside, atol=2e-5)


class TestDropout:
    @pytest.mark.parametrize("name", ["gru", "attention"])
    def test_follows_step_and_row_whichever_rank_holds_it(self, name):
        made, inputs, step = ENCODERS[name], histories([4, 2, 9, 5]), tf.constant(3, tf.int64)
        together = made(inputs, made.draws(4, step)).numpy()
        np.testing.assert_array_equal(together, made(inputs, made.draws(4, step)))
        assert not np.allclose(together, made(inputs), atol=1e-3)
        assert not np.allclose(together, made(inputs, made.draws(4, step + 1)), atol=1e-3)
        for row in range(4):
            alone = made(row_of(inputs, row), made.draws(1, step, row))
            np.testing.assert_allclose(alone[0], together[row], atol=2e-5)

    @pytest.mark.parametrize(("name", "options"), [("gru", {"gru": {}}), ("attention", {"attention": {"dropout": 0}})])
    def test_without_it_nothing_is_drawn(self, name, options):
        assert encoder(name, **options).draws(4, tf.constant(0, tf.int64)) == []


class TestMaking:
    @pytest.mark.parametrize("name", list(OPTIONS))
    def test_every_variable_exists_and_follows_the_seed(self, name):
        def made(seed):
            return encoder_of(
                RetrievalConfig.model_validate({**OPTIONS[name], "embedding_dim": DIM, "encoder": name}),
                QUERY,
                ITEM,
                seed,
            )

        first, second, other = made(1), made(1), made(2)
        count = len(first.variables)
        assert (count > 0) == (name != "bag")
        if name != "bag":
            first(histories([2, 0]))
            assert len(first.variables) == count
        for one, two in zip(first.variables, second.variables, strict=True):
            np.testing.assert_array_equal(one, two)
        drawn = [(a, b) for a, b in zip(first.variables, other.variables, strict=True) if np.ptp(a.numpy()) > 0]
        assert all(not np.array_equal(a, b) for a, b in drawn)
        assert len({np.round(a.numpy().ravel()[:3], 6).tobytes() for a, _ in drawn}) == len(drawn)

    @pytest.mark.parametrize("name", SEQUENCES)
    def test_reads_the_histories_of_one_value_per_item(self, name):
        assert ENCODERS[name].features == ("history_item_id", "history_topic")

    def test_an_item_alone_is_read_as_it_is(self):
        made = encoder_of(
            RetrievalConfig(encoder="attention", embedding_dim=DIM),
            {"history_item_id": QUERY["history_item_id"]},
            ITEM,
            0,
        )
        assert made.width == DIM
        assert made._mapped._map is None

    def test_no_history_to_read_is_said(self):
        with pytest.raises(UserError, match=r"retrieval\.encoder: 'gru' .*\(user_id\)") as caught:
            encoder_of(RetrievalConfig(encoder="gru"), {"user_id": QUERY["user_id"]}, ITEM, 0)
        assert "history_item_id" in caught.value.remedy
