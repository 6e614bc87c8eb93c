"""Towers of somebody else's under our loss, in plain `compile(); fit()`."""

import os
from pathlib import Path

import numpy as np
import pytest

from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from foundation.errors import UserError
from foundation.tf import keras, tf
from retrieval.config import RetrievalConfig
from retrieval.tfrs_model import RetrievalModel

ML_100K = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "ml-100k"
USERS, MOVIES = 944, 1_683
DIM = 8


class Tower(keras.Model):
    """A foreign one: an embedding of its own, two dense layers."""

    def __init__(self, feature: str, size: int, dim: int = DIM) -> None:
        super().__init__()
        self.feature = feature
        self.table = keras.layers.Embedding(size, 32)
        self.layers_behind = keras.Sequential([keras.layers.Dense(32, "relu"), keras.layers.Dense(dim)])

    def call(self, inputs, training=None):
        return self.layers_behind(self.table(inputs[self.feature]))


class Vectors(keras.Model):
    """One that takes what was looked up for it."""

    def __init__(self, feature: str) -> None:
        super().__init__()
        self.feature, self.dense = feature, keras.layers.Dense(DIM)

    def call(self, inputs, training=None):
        return self.dense(inputs[self.feature])


def batch(rows: int = 64, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"user": rng.integers(0, USERS, rows), "movie": rng.integers(0, 40, rows)}


def model(**options) -> RetrievalModel:
    keras.utils.set_random_seed(1)
    made = RetrievalModel(Tower("user", USERS), Tower("movie", MOVIES), items=MOVIES, item="movie", **options)
    made.compile(keras.optimizers.Adagrad(0.1))
    return made


def variables(layer) -> list[np.ndarray]:
    return [variable.numpy() for variable in layer.variables]


def test_the_loss_is_the_masked_corrected_softmax_of_the_towers_vectors():
    made = model(config=RetrievalConfig(log_q="given"))
    given = {**batch(), "log_q": np.log(np.random.default_rng(0).uniform(0.01, 1, 64)).astype(np.float32)}
    queries, candidates = made.embed_queries(given).numpy(), made.embed_candidates(given).numpy()
    logits = queries @ candidates.T - given["log_q"]
    same = given["movie"][:, None] == given["movie"]
    logits[same & ~np.eye(64, dtype=bool)] = -np.inf
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    assert float(made.compute_loss(given)) == pytest.approx(expected, rel=1e-5)


def test_only_training_is_remembered():
    options = RetrievalConfig(log_q="streaming", dim=DIM, batch_size=64, negatives={"queue": 2, "queue_after": 0})
    made, data = model(config=options), tf.data.Dataset.from_tensor_slices(batch()).batch(64)
    before = variables(made.retrieval_loss)
    assert made.evaluate(data, return_dict=True, verbose=0)["total_loss"] > 0
    for ours, theirs in zip(variables(made.retrieval_loss), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    made.fit(data, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(variables(made.retrieval_loss), before, strict=True))


def test_a_sharded_embedding_inside_learns_in_fit_and_is_called_once_for_both_towers():
    tables = [TableConfig(name, size, 16, RowWiseAdagrad(0.3)) for name, size in (("user", USERS), ("movie", MOVIES))]
    embedding = ShardedEmbedding({table.name: FeatureConfig(table) for table in tables})
    towers, config = (Vectors("user"), Vectors("movie")), RetrievalConfig(log_q="none")
    made = RetrievalModel(*towers, items=MOVIES, item="movie", embedding=embedding, config=config)
    made.compile(keras.optimizers.Adam(0.02))
    before, given = embedding.table("movie").numpy(), batch()
    losses = made.fit(tf.data.Dataset.from_tensor_slices(given).batch(16), epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    moved = np.flatnonzero(np.abs(embedding.table("movie").numpy() - before).max(1) > 0)
    np.testing.assert_array_equal(moved, np.unique(given["movie"]))
    assert made.embed_candidates({"movie": np.arange(5)}).shape == (5, DIM)
    assert made.embed_queries({"user": np.arange(3)}).shape == (3, DIM)


@pytest.mark.parametrize("options", [{"negatives": {"uniform": 4}}, {"loss": "full_softmax"}])
def test_negatives_that_are_not_in_its_batches_are_refused(options):
    with pytest.raises(UserError, match=r"negatives\.uniform, .* want items of the catalogue in every batch"):
        model(config=RetrievalConfig.model_validate(options))


def test_the_frequencies_are_its_own_unless_they_are_said_to_be_given():
    estimates = model(config=RetrievalConfig(temperature=0.1))
    assert np.isfinite(float(estimates.compute_loss(batch(), training=True)))
    with pytest.raises(UserError, match="no feature log_q"):
        model(config=RetrievalConfig(log_q="given")).compute_loss(batch(), training=True)


def test_a_tower_of_another_shape_is_named():
    towers = (Tower("user", USERS), lambda inputs, training: tf.zeros([64, 3, DIM]))
    with pytest.raises(ValueError, match=r"a tower gave \(64, 3, 8\); it gives one vector a row"):
        RetrievalModel(*towers, items=MOVIES, item="movie").compute_loss(batch())


@pytest.mark.skipif(not ML_100K.exists(), reason="needs ml-100k")
@pytest.mark.long
def test_foreign_towers_retrieve_on_movielens():
    """The last tenth of the likes in time, new ones of known users; every movie is a candidate."""
    ratings = np.loadtxt(ML_100K / "u.data", dtype=np.int64)
    likes = ratings[ratings[:, 2] >= 4]
    likes = likes[np.argsort(likes[:, 3], kind="stable")]
    cut = len(likes) * 9 // 10
    train, test = likes[:cut], likes[cut:]
    test = test[np.isin(test[:, 0], train[:, 0])]
    made = model(config=RetrievalConfig(log_q="streaming", dim=DIM))
    data = {"user": train[:, 0], "movie": train[:, 1]}
    made.fit(tf.data.Dataset.from_tensor_slices(data).shuffle(cut, seed=0).batch(1024), epochs=4, verbose=0)
    scores = (
        made.embed_queries({"user": test[:, 0]}).numpy() @ made.embed_candidates({"movie": np.arange(MOVIES)}).numpy().T
    )
    seen = np.zeros((USERS, MOVIES), bool)
    seen[train[:, 0], train[:, 1]] = True
    scores[seen[test[:, 0]]] = -np.inf
    rank = (scores > scores[np.arange(len(test)), test[:, 1]][:, None]).sum(1)
    assert (rank < 100).mean() > 3 * 100 / MOVIES, "chance is 100 of 1,682"
