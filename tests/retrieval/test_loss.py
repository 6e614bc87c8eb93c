"""The retrieval loss is the textbook's, row by row, whatever its negatives come from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.config import validated
from foundation.errors import UserError
from foundation.tf import tf
from inputs.batches import FILLED_ITEM, FILLED_LOG_Q
from inputs.sampling import NEVER
from retrieval.config import RetrievalConfig
from retrieval.loss import RetrievalLoss
from retrieval.negatives.hard import known_to
from retrieval.negatives.rows import Rows
from trainer.job import Job


def loss_of(items=100, **options) -> RetrievalLoss:
    return RetrievalLoss(RetrievalConfig(**options), items, seed=1)


def rows(vectors, items, log_q, log_draws=None) -> Rows:
    log_draws = None if log_draws is None else tf.constant(log_draws, tf.float32)
    numbers = tf.constant(items, tf.int64), tf.constant(log_q, tf.float32)
    return Rows.of(tf.convert_to_tensor(vectors, tf.float32), *numbers, log_draws)


def mean(loss, queries, own, sampled=None, known=None) -> float:
    return float(tf.reduce_sum(loss.by_row(tf.convert_to_tensor(queries, tf.float32), own, None, sampled, None, known)))


def cross_entropy(own, others) -> float:
    logits = np.array([own, *others])
    return logits.max() + np.log(np.exp(logits - logits.max()).sum()) - own


def naive(queries, own, pool, of_batches, of="all", temperature=1.0, corrected=True) -> list[float]:
    """Each row's cross-entropy with a loop per row and per candidate, in float64. pool: Rows; of_batches: how many of
    its columns beside the row's own are rows of batches."""

    def expected(from_rows, column) -> float:
        draws = float(from_rows.log_draws[column])
        times = of_batches * np.exp(float(from_rows.log_q[column])) + (np.exp(draws) if draws > NEVER else 0)
        return float(np.log(times)) if corrected else 0.0

    losses = []
    for row, query in enumerate(queries):
        positive = float(query @ own.vectors[row].numpy()) / temperature
        positive -= expected(own, row) if of == "all" else 0.0
        others = [
            float(query @ pool.vectors[column].numpy()) / temperature - expected(pool, column)
            for column in range(len(pool.items))
            if pool.items[column] != own.items[row] and pool.items[column] >= 0
        ]
        losses.append(cross_entropy(positive, others))
    return losses


def drawn(rng, count, kinds, dim=4, log_draws=False) -> Rows:
    of_draws = np.log(rng.uniform(0.1, 3, count)) if log_draws else None
    log_q = np.log(rng.uniform(1e-4, 0.5, count))
    return rows(rng.normal(size=(count, dim)), rng.integers(0, kinds, count), log_q, of_draws)


@settings(deadline=None, max_examples=20)
@given(
    count=st.integers(1, 12),
    dim=st.integers(1, 5),
    kinds=st.integers(1, 8),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    of=st.sampled_from(["all", "negatives"]),
    temperature=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 2**31),
)
def test_in_batch_it_equals_a_loop_over_rows_and_candidates(count, dim, kinds, scale, of, temperature, seed):
    rng = np.random.default_rng(seed)
    queries, own = scale * rng.normal(size=(count, dim)), drawn(rng, count, kinds, dim)
    expected = naive(queries, own, own, max(count - 1, 1e-6), of, temperature or 1.0)
    measured = mean(loss_of(log_q_of=of, temperature=temperature), queries, own)
    assert np.isclose(measured, np.mean(expected), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=12)
@given(
    count=st.integers(2, 8),
    sampled=st.integers(1, 9),
    kinds=st.integers(1, 8),
    of=st.sampled_from(["all", "negatives"]),
    seed=st.integers(0, 2**31),
)
def test_mixed_negatives_are_corrected_by_how_often_each_is_expected_in_the_mix(count, sampled, kinds, of, seed):
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(count, 4))
    own, more = drawn(rng, count, kinds, log_draws=True), drawn(rng, sampled, kinds, log_draws=True)
    pool = Rows(*(tf.concat(columns, 0) for columns in zip(own, more, strict=True)))
    measured = mean(loss_of(log_q_of=of, negatives={"uniform": 1, "popular": 1}), queries, own, more)
    assert np.isclose(measured, np.mean(naive(queries, own, pool, count - 1, of)), rtol=1e-4, atol=1e-4)


def test_an_item_that_batches_never_hold_is_corrected_by_its_draws_alone():
    rng = np.random.default_rng(3)
    queries, own, more = rng.normal(size=(2, 4)), drawn(rng, 2, 9, log_draws=True), drawn(rng, 3, 9, log_draws=True)
    never = more._replace(log_q=tf.fill([3], NEVER))
    assert np.isfinite(mean(loss_of(negatives={"uniform": 3}), queries, own, never))
    of_none = more._replace(items=tf.fill([3], tf.constant(-1, tf.int64)), log_draws=tf.fill([3], NEVER))
    alone = mean(loss_of(negatives={"uniform": 3}), queries, own, drawn(rng, 0, 9, log_draws=True))
    assert mean(loss_of(negatives={"uniform": 3}), queries, own, of_none) == pytest.approx(alone, rel=1e-5)


def test_without_a_correction_it_is_the_plain_softmax():
    rng = np.random.default_rng(0)
    queries, own = rng.normal(size=(6, 4)), drawn(rng, 6, 4)
    expected = np.mean(naive(queries, own, own, 1, corrected=False))
    assert mean(loss_of(log_q="none"), queries, own) == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_one_item_has_no_negatives_and_no_loss():
    rng = np.random.default_rng(0)
    own = rows(rng.normal(size=(6, 3)), np.zeros(6), np.zeros(6))
    for options in ({}, {"log_q": "streaming"}, {"log_q_of": "negatives"}, {"negatives": {"hard": 3}}):
        assert mean(loss_of(**options), rng.normal(size=(6, 3)), own) == 0.0


def test_an_accidental_hit_gets_no_gradient_from_the_other_row():
    queries = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    candidates = tf.Variable([[0.5, 0.1], [0.2, 0.3], [0.9, 0.4]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loss_of().by_row(queries, rows(candidates, [4, 4, 9], np.zeros(3))))
    gradient = tape.gradient(loss, candidates).numpy()
    logits = queries.numpy() @ candidates.numpy().T
    logits[0, 1] = logits[1, 0] = -np.inf
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient, (p - np.eye(3)).T @ queries.numpy() / 3, atol=1e-6)


def test_a_popular_negative_is_pushed_down_less_than_a_rare_one():
    moved = tf.Variable(np.ones((3, 1), np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loss_of().by_row(tf.ones((3, 1)), rows(moved, np.arange(3), np.log([0.1, 0.8, 0.1]))))
    gradient = tape.gradient(loss, moved).numpy()[:, 0]
    assert gradient[1] < gradient[0]
    assert np.isclose(gradient[0], gradient[2])


@settings(deadline=None, max_examples=10)
@given(
    count=st.integers(2, 9),
    filled=st.integers(1, 5),
    options=st.sampled_from(
        [{}, {"log_q_of": "negatives"}, {"log_q": "streaming"}, {"negatives": {"hard": 2}}, {"negatives": {"queue": 1}}]
    ),
    seed=st.integers(0, 2**31),
)
def test_rows_that_fill_up_a_batch_count_for_nothing(count, filled, options, seed):
    """Two steps, so that what is remembered of the first is seen in the second."""
    rng = np.random.default_rng(seed)
    options = {**options, "dim": 3, "batch_size": 20}
    if "queue" in options.get("negatives", {}):
        options["negatives"] = {"queue": 1, "queue_after": 0}
    queries, vectors = (tf.constant(rng.normal(size=(count + filled, 3)), tf.float32) for _ in range(2))
    items = np.append(rng.integers(0, 6, count), [FILLED_ITEM] * filled)
    log_q = np.append(np.log(rng.uniform(1e-3, 1, count)), [FILLED_LOG_Q] * filled).astype(np.float32)

    def loss_and_gradients(size):
        loss = loss_of(**options)
        for _ in range(2):
            with tf.GradientTape() as tape:
                tape.watch([queries, vectors])
                own = rows(vectors[:size], items[:size], log_q[:size])
                total = tf.reduce_sum(loss.by_row(queries[:size], own))
        return total, *map(tf.convert_to_tensor, tape.gradient(total, [queries, vectors]))

    for ours, wanted in zip(loss_and_gradients(count + filled), loss_and_gradients(count), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


class TestQueue:
    def test_it_holds_the_last_candidates_once_so_many_batches_came(self):
        rng = np.random.default_rng(4)
        loss = loss_of(dim=4, batch_size=4, negatives={"queue": 2, "queue_after": 2}, log_q_of="negatives")
        held = []
        for batch, count in enumerate([4, 3, 4, 2, 4]):
            queries, own = rng.normal(size=(count, 4)), drawn(rng, count, 6)
            ready = held[-8:] if batch >= 2 else []
            pool = Rows(*(tf.concat([column, *(each[i] for each in ready)], 0) for i, column in enumerate(own)))
            expected = np.mean(naive(queries, own, pool, count - 1 + len(ready), "negatives"))
            assert mean(loss, queries, own) == pytest.approx(expected, rel=1e-5), batch
            held += [Rows(*(column[row : row + 1] for column in own)) for row in range(count)]

    def test_what_it_holds_gets_no_gradient(self):
        rng = np.random.default_rng(4)
        loss = loss_of(dim=4, batch_size=2, negatives={"queue": 1, "queue_after": 0})
        candidates = tf.Variable(rng.normal(size=(2, 4)), dtype=tf.float32)
        with tf.GradientTape() as tape:
            mean(loss, rng.normal(size=(2, 4)), rows(candidates, [1, 2], np.zeros(2)))
            other = rows(rng.normal(size=(2, 4)), [3, 4], np.zeros(2))
            total = tf.reduce_sum(loss.by_row(tf.ones((2, 4)), other))
        assert tape.gradient(total, candidates) is None
        assert loss.trainable_variables == []

    def test_items_are_pushed_as_if_what_it_holds_had_a_gradient(self):
        """In expectation over batches and queues, all of them of two items, whose vectors do not move meanwhile."""
        rng, q = np.random.default_rng(5), np.array([0.8, 0.2])
        loss = loss_of(dim=4, batch_size=2, negatives={"queue": 1, "queue_after": 0})
        table, liked_by = tf.Variable(rng.normal(size=(2, 4)), dtype=tf.float32), rng.normal(size=(2, 4))
        log_q = np.log(q).astype(np.float32)

        def live(queries, batch, queued):
            pool = np.append(batch, queued)
            logits = tf.matmul(queries, tf.gather(table, pool), transpose_b=True) - log_q[pool]
            own = tf.linalg.diag_part(logits[:, : len(batch)])
            negatives = tf.where(batch[:, np.newaxis] == pool, -1e9, logits)
            return tf.reduce_mean(tf.reduce_logsumexp(tf.concat([own[:, tf.newaxis], negatives], 1), 1) - own)

        expected = np.zeros((2, 2, 4))
        for places in np.ndindex(2, 2, 2, 2):
            batch, queued = np.split(np.array(places), 2)
            queries = tf.constant(liked_by[batch], tf.float32)
            loss.queue.push(rows(tf.gather(table, queued), queued, log_q[queued]))
            with tf.GradientTape(persistent=True) as tape:
                own = rows(tf.gather(table, batch), batch, log_q[batch])
                ours = tf.reduce_sum(loss.by_row(queries, own, remembers=False))
                theirs = live(queries, batch, queued)
            assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
            for i, of in enumerate((ours, theirs)):
                expected[i] += q[list(places)].prod() * tf.convert_to_tensor(tape.gradient(of, table)).numpy()
        np.testing.assert_allclose(*expected, atol=1e-6)


class TestHard:
    @settings(deadline=None, max_examples=12)
    @given(count=st.integers(2, 8), most=st.integers(1, 6), kinds=st.integers(1, 8), seed=st.integers(0, 2**31))
    def test_a_second_softmax_sees_the_best_items_that_are_not_the_users(self, count, most, kinds, seed):
        rng = np.random.default_rng(seed)
        queries, own = rng.normal(size=(count, 4)), drawn(rng, count, kinds)
        known = [rng.integers(-1, kinds + 2, rng.integers(0, 4)) for _ in range(count)]
        scores = queries @ own.vectors.numpy().T
        items, extra = own.items.numpy(), []
        for row in range(count):
            firsts = [c for c in range(count) if items[c] not in items[:c]]
            kept = [c for c in firsts if items[c] not in {items[row], *known[row]}]
            best = sorted((scores[row, c] for c in kept), reverse=True)[:most]
            extra.append(cross_entropy(scores[row, row], best))
        expected = np.mean(naive(queries, own, own, count - 1)) + 0.5 * np.mean(extra)
        ragged = tf.ragged.constant([list(map(int, each)) for each in known], tf.int64, ragged_rank=1)
        measured = mean(loss_of(negatives={"hard": most, "hard_weight": 0.5}), queries, own, known=ragged)
        assert np.isclose(measured, expected, rtol=1e-4, atol=1e-4)

    def test_no_known_items_at_all(self):
        known = tf.RaggedTensor.from_row_splits(tf.zeros([0], tf.int64), tf.constant([0, 0, 0], tf.int64))
        assert not known_to(known, tf.constant([3, 1, 3], tf.int64)).numpy().any()


class TestFullSoftmax:
    def test_it_is_the_cross_entropy_over_the_catalogue(self):
        rng = np.random.default_rng(2)
        catalogue, queries, items = rng.normal(size=(9, 4)), rng.normal(size=(5, 4)), np.array([3, 3, 0, 8, 1])
        logits = queries @ catalogue.T
        expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(5), items])
        own, all_items = rows(catalogue[items], items, np.zeros(5)), rows(catalogue, np.arange(9), np.zeros(9))
        assert mean(loss_of(loss="full_softmax"), queries, own, all_items) == pytest.approx(expected, rel=1e-5)

    def test_it_wants_the_catalogue(self):
        rng = np.random.default_rng(2)
        with pytest.raises(ValueError, match="whole catalogue"):
            mean(loss_of(loss="full_softmax"), rng.normal(size=(3, 4)), drawn(rng, 3, 5))

    @pytest.mark.parametrize(
        ("of", "uniform", "popular", "near"),
        [("negatives", 0, 0, True), ("negatives", 150, 150, True), ("all", 0, 0, False)],
    )
    def test_sampled_softmax_of_the_negatives_approaches_its_gradient(self, of, uniform, popular, near):
        """In expectation, as negatives grow in number: of 12 items of very different popularity the gradient with
        respect to one query. Correcting the positive as well aims at another gradient."""
        rng = np.random.default_rng(7)
        catalogue = rng.normal(size=(12, 4)).astype(np.float32)
        q = rng.dirichlet(np.full(12, 0.5)) * 0.9 + 0.1 / 12
        q_popular = q**0.75 / (q**0.75).sum()
        positive, size = int(np.argsort(q)[6]), 2_000
        query = tf.Variable(catalogue[positive : positive + 1])  # one that likes its positive, whose share p is large
        logits = query.numpy()[0] @ catalogue.T
        p = np.exp(logits) / np.exp(logits).sum()
        exact = p @ catalogue - catalogue[positive]
        log_draws = np.log(uniform / 12 + popular * q_popular + 1e-30) if uniform else np.full(12, NEVER)
        options = {"uniform": uniform, "popular": popular} if uniform else {}
        loss = loss_of(log_q_of=of, negatives=options)
        found = []
        for _ in range(60):
            items = np.append(positive, rng.choice(12, size - 1, p=q))
            draws = np.append(rng.integers(0, 12, uniform), rng.choice(12, popular, p=q_popular))
            own, sampled = (rows(catalogue[i], i, np.log(q)[i], log_draws[i]) for i in (items, draws))
            with tf.GradientTape() as tape:  # the other rows' queries are 0 and their losses left out
                queries = tf.concat([query, tf.zeros((size - 1, 4))], 0)
                first = loss.by_row(queries, own, None, sampled if uniform else None)[0] * size
            found.append(tape.gradient(first, query).numpy()[0])
        error = np.linalg.norm(np.mean(found, axis=0) - exact) / np.linalg.norm(exact)
        assert error < 0.05 if near else error > 0.1


def test_a_learned_temperature_begins_where_it_is_told_and_has_a_gradient():
    rng = np.random.default_rng(1)
    queries, own = rng.normal(size=(5, 4)), drawn(rng, 5, 9)
    learned, fixed = loss_of(temperature=0.2, learn_temperature=True), loss_of(temperature=0.2)
    assert mean(learned, queries, own) == pytest.approx(mean(fixed, queries, own), rel=1e-5)
    [variable] = learned.trainable_variables
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(learned.by_row(tf.constant(queries, tf.float32), own))
    step, gradient = 1e-2, float(tape.gradient(total, variable))
    around = []
    for sign in (1, -1):
        variable.assign(np.log(0.2) + sign * step)
        around.append(mean(learned, queries, own))
    assert gradient == pytest.approx((around[0] - around[1]) / (2 * step), rel=0.02)


@pytest.mark.parametrize("options", [{"log_q": "streaming"}, {"negatives": {"queue": 1}}])
def test_parameter_servers_cannot_hold_what_is_remembered(options, monkeypatch):
    monkeypatch.setattr("retrieval.loss.servers_of", lambda _: ["/job:ps/task:0"])
    with pytest.raises(UserError, match="steps do not wait for each other"):
        loss_of(**options)
    loss_of(log_q="given")


@pytest.mark.parametrize(
    ("retrieval", "message"),
    [
        ({"loss": "full_softmax", "negatives": {"uniform": 4}}, "negatives.uniform: found beside loss: full_softmax"),
        ({"negatives": {"queue_after": 5}}, "queue_after: found without a queue"),
        ({"negatives": {"unifrom": 5}}, "unknown key; did you mean"),
        ({"log_q": "stream"}, "log_q"),
        ({"temperature": 0}, "temperature"),
        ({"frequency": {"rate": 0.9}}, "rate"),
    ],
)
def test_options_that_cannot_be_are_refused(retrieval, message):
    document = {"name": "a", "inputs": {"format": "simulated"}, "retrieval": retrieval}
    with pytest.raises(UserError, match=message):
        validated(Job, document, "job.yaml", "job")
