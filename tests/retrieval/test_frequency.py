"""Streaming frequencies: near the truth, the same whatever the order of rows, and what they are for: logQ's sign."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.frequency import error_table, errors
from foundation.tf import keras, tf
from retrieval.config import RetrievalConfig
from retrieval.frequency import StreamingFrequency
from retrieval.loss import RetrievalLoss
from retrieval.negatives.config import FrequencyConfig
from retrieval.negatives.rows import Rows


def frequency(items=50, seed=3, **options) -> StreamingFrequency:
    return StreamingFrequency(FrequencyConfig(**{**options}), items, seed)


def update(estimate, batches) -> None:
    """Each batch in turn, in a graph, as training does."""
    note = tf.function(estimate.update, reduce_retracing=True)
    for items in batches:
        note(tf.constant(items, tf.int64))


def probabilities(estimate, items) -> np.ndarray:
    return np.exp(estimate.log_q(tf.constant(items, tf.int64)).numpy())


def by_the_book(batches, items, rate) -> np.ndarray:
    """1 / B of each item: Algorithm 2 an occurrence at a time, without hashing."""
    gap, last, seen, now = np.full(items, float(items)), np.zeros(items), np.zeros(items), 0
    for batch in batches:
        now += (batch >= 0).sum()
        for item in np.unique(batch[batch >= 0]):
            count = (batch == item).sum()
            for _ in range(count):
                a = max(rate, 1 / (seen[item] + 2))
                gap[item] = (1 - a) * gap[item] + a * (now - last[item]) / count
                seen[item] += 1
            last[item] = now
    return 1 / gap


@settings(deadline=None, max_examples=8)
@given(rate=st.sampled_from([0.5, 0.1, 0.01]), kinds=st.integers(1, 30), seed=st.integers(0, 2**31))
def test_it_is_the_papers_algorithm_an_occurrence_at_a_time(rate, kinds, seed):
    rng = np.random.default_rng(seed)
    batches = [np.minimum(rng.zipf(1.3, rng.integers(1, 40)) - 1, kinds - 1) for _ in range(12)]
    batches.append(np.append(batches[0], [-1, -1]))
    estimate = frequency(kinds, rate=rate)
    update(estimate, batches)
    seen = np.unique(np.concatenate(batches)[np.concatenate(batches) >= 0])
    np.testing.assert_allclose(probabilities(estimate, seen), by_the_book(batches, kinds, rate)[seen], rtol=1e-3)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**31))
def test_neither_the_order_of_rows_nor_what_fills_a_batch_up_matters(seed):
    rng = np.random.default_rng(seed)
    batches = [rng.integers(0, 20, 30) for _ in range(5)]
    one, other = frequency(buckets=16), frequency(buckets=16)
    update(one, batches)
    update(other, [rng.permutation(np.append(batch, [-1] * 3)) for batch in batches])
    np.testing.assert_array_equal(probabilities(one, np.arange(50)), probabilities(other, np.arange(50)))


def test_a_collision_only_makes_an_item_look_more_frequent_and_a_second_hash_helps():
    rng = np.random.default_rng(5)
    batches = [np.minimum(rng.zipf(1.2, 256) - 1, 299) for _ in range(200)]
    estimates = [
        frequency(300, buckets=buckets, hashes=hashes) for buckets, hashes in [(1 << 16, 1), (400, 1), (400, 3)]
    ]
    for estimate in estimates:
        update(estimate, batches)
    exact, one, three = (probabilities(estimate, np.arange(300)) for estimate in estimates)
    assert (one >= exact * (1 - 1e-5)).all()
    assert (three >= exact * (1 - 1e-5)).all()
    wrong_by_one, wrong_by_three = ((each > exact * 1.01).mean() for each in (one, three))
    assert wrong_by_three < wrong_by_one


def test_it_follows_what_changes():
    estimate = frequency(2, rate=0.05)
    for share in (0.9, 0.1):
        rng = np.random.default_rng(1)
        update(estimate, [(rng.random(64) > share).astype(np.int64) for _ in range(300)])
        assert probabilities(estimate, [0])[0] == pytest.approx(share, rel=0.2)


def test_the_error_table_is_near_the_true_frequencies():
    rows = {(row.buckets, row.hashes, row.rate): row for row in errors(items=500, batch_size=256, steps=300)}
    best = rows[1 << 16, 2, 0.01]
    assert best.common < 0.15, "items seen often, relative error"
    assert best.bias < 0.1
    assert rows[512, 1, 0.01].common > rows[512, 3, 0.01].common > best.common, "fewer buckets, more collisions"
    assert rows[1 << 16, 2, 0.1].common > best.common, "a faster rate is noisier"
    assert len(error_table(rows.values()).splitlines()) == len(rows) + 2


class TestLogQ:
    """A world whose true scores are known: users of two groups like items of theirs, P(item | user) is proportional to
    popularity times liking, and popularity has a range of a hundred. The candidates of a batch are sampled by how often
    items are positives. Without a correction popular items are negatives too often and pushed down (Yi et al., section
    3): what a model learns is log P(item | user) less the log of that frequency."""

    ITEMS, BATCH, STEPS = 60, 256, 300

    def world(self):
        """(true P(item | group) [2, items], popularity [items])."""
        rng = np.random.default_rng(11)
        popularity = np.exp(rng.uniform(0, np.log(100), self.ITEMS))
        likely = popularity * np.exp(rng.normal(size=(2, self.ITEMS)))
        return likely / likely.sum(axis=1, keepdims=True), popularity

    def learned(self, sign=1, **options) -> np.ndarray:
        """[2, items] the scores of a free table of numbers, in the end."""
        likely, _ = self.world()
        config = RetrievalConfig(frequency={"rate": 0.005}, **options)
        loss = RetrievalLoss(config, self.ITEMS, seed=0)
        scores = tf.Variable(tf.zeros((self.ITEMS, 2)))
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, self.STEPS))
        log_q = sign * tf.math.log(tf.constant(likely.mean(axis=0), tf.float32))

        @tf.function
        def step(groups, items):
            with tf.GradientTape() as tape:
                own = Rows.of(tf.gather(scores, items), items, tf.gather(log_q, items), None)
                total = tf.reduce_sum(loss.by_row(tf.one_hot(groups, 2), own))
            optimizer.apply_gradients([(tape.gradient(total, scores), scores)])

        rng = np.random.default_rng(0)
        for _ in range(self.STEPS):
            groups = rng.integers(0, 2, self.BATCH)
            items = np.where(groups, *(rng.choice(self.ITEMS, self.BATCH, p=likely[group]) for group in (1, 0)))
            step(tf.constant(groups), tf.constant(items, tf.int64))
        return scores.numpy().T

    def bias(self, **options) -> float:
        """By how much a score is off for each unit of log popularity: 0 is right, -1 all of it lost."""
        likely, popularity = self.world()
        off = self.learned(**options) - np.log(likely)
        return float(np.mean([np.polyfit(np.log(popularity), each, 1)[0] for each in off]))

    def test_uncorrected_scores_are_off_by_popularity_and_corrected_ones_are_not(self):
        assert self.bias(log_q="none") < -0.7
        for log_q, of in [("given", "all"), ("streaming", "all"), ("streaming", "negatives")]:
            assert abs(self.bias(log_q=log_q, log_q_of=of)) < 0.1, (log_q, of)

    def test_the_other_sign_is_worse_than_none(self):
        assert self.bias(log_q="given", sign=-1) < -1.2
