"""Every query encoder is served: by stock TensorFlow, in the bundle, through the funnel."""

import subprocess
import sys

import numpy as np
import pytest

from embeddings.kernels import stock_only
from foundation.tensors import to_tensors
from foundation.tf import tf
from retrieval.config import RetrievalConfig
from retrieval.interests import scores_of
from retrieval.two_tower import TwoTower
from serving.bundle import load_signature
from serving.funnel import Funnel
from serving.signatures import flatten, signature_of, unflatten

OPTIONS = {"gru": {"gru": {"units": 5}}, "attention": {"attention": {"length": 10}}}
STOCK = """
import sys
import numpy as np
import tensorflow as tf

asked, *models = sys.argv[1:]
with np.load(asked) as inputs:
    given = {name: tf.constant(inputs[name]) for name in inputs}
for model in models:
    np.save(model + ".npy", tf.saved_model.load(model).signatures["serving_default"](**given)["query"].numpy())
assert not [name for name in sys.modules if name.split(".")[0] in ("foundation", "embeddings", "retrieval", "inputs")]
"""


@pytest.fixture(scope="module")
def inputs(served_interests):
    """Of two users and a newcomer without a history."""
    users = np.array([3, 0, 17])
    histories = served_interests.histories.before(users, np.full(3, served_interests.card.now), 10)
    assert (histories.lengths > 0).tolist() == [True, False, True]
    return served_interests.space.query_inputs(users, histories)


def save(model: TwoTower, features, path) -> None:
    @tf.function(input_signature=[signature_of(features)])
    def serve(flat):
        return {"query": model.embed_queries(unflatten(features, flat))}

    module = tf.Module()
    with stock_only():
        module.serve, module.read = serve, list(serve.get_concrete_function().graph.variables)
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(path), signatures={"serving_default": serve}, options=options)


@pytest.mark.long
def test_saved_query_towers_are_the_models_in_stock_tensorflow(served_interests, inputs, tmp_path):
    space, models, folders = served_interests.space, {}, {}
    for encoder, options in OPTIONS.items():
        config = RetrievalConfig.model_validate({"embedding_dim": 4, "dim": 6, "encoder": encoder, **options})
        model = TwoTower(space.query_features, space.item_features, config, seed=1)
        save(model, space.query_features, tmp_path / encoder)
        models[encoder], folders[encoder] = model, tmp_path / encoder
    models["multi_interest"], folders["multi_interest"] = (
        served_interests.two_tower,
        served_interests.bundle / "query_tower",
    )
    np.savez(tmp_path / "asked.npz", **flatten(inputs))
    command = [sys.executable, "-I", "-c", STOCK, str(tmp_path / "asked.npz"), *map(str, folders.values())]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, child.stderr
    for encoder, model in models.items():
        wanted = model.embed_queries(to_tensors(inputs)).numpy()
        answered = np.load(folders[encoder].with_name(folders[encoder].name + ".npy"))
        np.testing.assert_allclose(answered, wanted, rtol=1e-5, atol=1e-5, err_msg=encoder)
    assert answered.shape == (3, 3, 6)


def test_the_bundles_query_tower_gives_every_interest(served_interests, inputs):
    signature = load_signature(served_interests.bundle / "query_tower")
    ours = signature(**{name: tf.constant(value) for name, value in flatten(inputs).items()})["query"]
    wanted = served_interests.two_tower.embed_queries(to_tensors(inputs))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_the_funnel_ranks_what_scores_highest_for_any_interest(served_interests):
    served, user = served_interests, np.array([3])
    funnel, now = Funnel.load(served.run), served.card.now
    history = served.histories.before(user, np.array([now]), 10)
    seen = np.unique(served.histories.all(user).values)
    answer = funnel.answer(3, history.values, seen, now)
    queries = served.two_tower.embed_queries(to_tensors(served.space.query_inputs(user, history))).numpy()
    scores = scores_of(queries, served.vectors)[0]
    scores[seen] = -np.inf
    best = np.argsort(-scores)[: served.card.funnel.retrieve]
    assert set(answer.slate.items) <= set(best)
    np.testing.assert_allclose(answer.scores["similarity"], scores[answer.slate.items], rtol=1e-4, atol=1e-5)
    assert len(answer.slate.items) == served.card.postranking.slate_size
