"""The in-batch softmax is the textbook's, row by row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.tf import tf
from inputs.batches import FILLED_ITEM, FILLED_LOG_Q
from retrieval.softmax import in_batch_softmax


def naive(queries, candidates, items, log_q) -> float:
    """Cross-entropy with a loop per row and per candidate, in float64."""
    losses = []
    for row in range(len(items)):
        own = float(queries[row] @ candidates[row] - log_q[row])
        others = [
            float(queries[row] @ candidates[other] - log_q[other])
            for other in range(len(items))
            if items[other] != items[row]
        ]
        logits = np.array([own, *others])
        losses.append(logits.max() + np.log(np.exp(logits - logits.max()).sum()) - own)
    return float(np.mean(losses))


def measured(queries, candidates, items, log_q) -> float:
    arrays = (queries.astype(np.float32), candidates.astype(np.float32), items, log_q.astype(np.float32))
    return float(in_batch_softmax(*map(tf.constant, arrays)))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 12),
    dim=st.integers(1, 5),
    kinds=st.integers(1, 8),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    seed=st.integers(0, 2**31),
)
def test_equals_a_loop_over_rows_and_candidates(rows, dim, kinds, scale, seed):
    rng = np.random.default_rng(seed)
    queries, candidates = scale * rng.normal(size=(2, rows, dim))
    items, log_q = rng.integers(0, kinds, rows), np.log(rng.uniform(1e-4, 1, rows))
    expected = naive(queries, candidates, items, log_q)
    assert np.isclose(measured(queries, candidates, items, log_q), expected, rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_item_has_no_negatives_and_no_loss():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(2, 6, 3))
    assert measured(queries, candidates, np.zeros(6, np.int64), np.zeros(6)) == 0.0


def test_an_accidental_hit_gets_no_gradient_from_the_other_row():
    queries = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    candidates = tf.Variable([[0.5, 0.1], [0.2, 0.3], [0.9, 0.4]])
    items = tf.constant([4, 4, 9], tf.int64)
    with tf.GradientTape() as tape:
        loss = in_batch_softmax(queries, candidates, items, tf.zeros(3))
    gradient = tape.gradient(loss, candidates).numpy()
    logits = queries.numpy() @ candidates.numpy().T
    logits[0, 1] = logits[1, 0] = -np.inf
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient, (p - np.eye(3)).T @ queries.numpy() / 3, atol=1e-6)


def test_a_popular_negative_is_pushed_down_less_than_a_rare_one():
    queries, candidates = np.ones((3, 1)), np.ones((3, 1))
    items = np.arange(3)
    with tf.GradientTape() as tape:
        moved = tf.constant(candidates, tf.float32)
        tape.watch(moved)
        log_q = tf.math.log(tf.constant([0.1, 0.8, 0.1]))
        loss = in_batch_softmax(tf.constant(queries, tf.float32), moved, items, log_q)
    gradient = tape.gradient(loss, moved).numpy()[:, 0]
    assert gradient[1] < gradient[0]
    assert np.isclose(gradient[0], gradient[2])


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), filled=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_rows_that_fill_up_a_batch_count_for_nothing(rows, filled, seed):
    rng = np.random.default_rng(seed)
    vectors = [tf.constant(rng.normal(size=(rows + filled, 3)), tf.float32) for _ in range(2)]
    items = np.append(rng.integers(0, 6, rows), [FILLED_ITEM] * filled)
    log_q = np.append(np.log(rng.uniform(1e-3, 1, rows)), [FILLED_LOG_Q] * filled).astype(np.float32)

    def loss_and_gradients(count):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            loss = in_batch_softmax(*(v[:count] for v in vectors), tf.constant(items[:count]), log_q[:count])
        return loss, *map(tf.convert_to_tensor, tape.gradient(loss, vectors))

    for ours, wanted in zip(loss_and_gradients(rows + filled), loss_and_gradients(rows), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-7)
