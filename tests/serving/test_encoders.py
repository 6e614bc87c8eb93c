"""Every query encoder is served: by stock TensorFlow, in the bundle, through the funnel."""

import subprocess
import sys

import numpy as np
import pytest

from foundation.tensors import to_tensors
from foundation.tf import tf
from retrieval.interests import scores_of
from serving.bundle import load_signature
from serving.funnel import Funnel
from serving.signatures import flatten

OPTIONS = {
    "gru": {"gru": {"units": 5}},
    "attention": {"attention": {"length": 10}},
    "multi_interest": {"multi_interest": {"interests": 3, "length": 10}},
}
STOCK = """
import sys
import numpy as np
import tensorflow as tf

model, asked, answered = sys.argv[1:]
signature = tf.saved_model.load(model).signatures["serving_default"]
with np.load(asked) as inputs:
    np.save(answered, signature(**{name: tf.constant(inputs[name]) for name in inputs})["query"].numpy())
assert not [name for name in sys.modules if name.split(".")[0] in ("foundation", "embeddings", "retrieval", "inputs")]
"""


@pytest.fixture(scope="module", params=list(OPTIONS))
def encoded(request, serve_with):
    return serve_with(encoder=request.param, **OPTIONS[request.param])


@pytest.fixture(scope="module")
def inputs(encoded):
    """Of two users and a newcomer without a history."""
    users = np.array([3, 0, 17])
    histories = encoded.histories.before(users, np.full(3, encoded.card.now), 10)
    assert sorted(histories.lengths)[:2] != [0, 0]
    return encoded.space.query_inputs(users, histories)


def test_the_saved_query_tower_is_the_model_in_stock_tensorflow(encoded, inputs, tmp_path):
    flat, wanted = flatten(inputs), encoded.two_tower.embed_queries(to_tensors(inputs)).numpy()
    signature = load_signature(encoded.bundle / "query_tower")
    ours = signature(**{name: tf.constant(value) for name, value in flat.items()})["query"]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)
    np.savez(tmp_path / "asked.npz", **flat)
    paths = [str(path) for path in (encoded.bundle / "query_tower", tmp_path / "asked.npz", tmp_path / "answered.npy")]
    child = subprocess.run(
        [sys.executable, "-I", "-c", STOCK, *paths], capture_output=True, text=True, check=False, timeout=120
    )
    assert child.returncode == 0, child.stderr
    np.testing.assert_allclose(np.load(tmp_path / "answered.npy"), wanted, rtol=1e-5, atol=1e-5)


def test_the_funnel_ranks_what_scores_highest_for_any_interest(encoded):
    funnel, now = Funnel.load(encoded.run), encoded.card.now
    user = np.array([3])
    history = encoded.histories.before(user, np.array([now]), 10)
    seen = np.unique(encoded.histories.all(user).values)
    answer = funnel.answer(3, history.values, seen, now)
    queries = encoded.two_tower.embed_queries(to_tensors(encoded.space.query_inputs(user, history))).numpy()
    scores = scores_of(queries, encoded.vectors)[0]
    scores[seen] = -np.inf
    best = np.argsort(-scores)[: encoded.card.funnel.retrieve]
    assert set(answer.slate.items) <= set(best)
    np.testing.assert_allclose(answer.scores["similarity"], scores[answer.slate.items], rtol=1e-4, atol=1e-5)
    assert len(answer.slate.items) == encoded.card.postranking.slate_size
