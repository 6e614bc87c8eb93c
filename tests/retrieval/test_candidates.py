"""Candidate vectors read from a checkpoint, piece by piece, are those of the model that was saved."""

import shutil

import numpy as np
import pytest

from embeddings import save_tables
from embeddings.checkpoints.reshard import reshard_tables
from embeddings.dense import DenseCheckpoint
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from foundation.tensors import to_tensors
from foundation.tf import tf
from inputs.entities import FeatureSpec
from inputs.ragged import Ragged, splits_of
from retrieval.candidates import SavedCandidates
from retrieval.config import RetrievalConfig
from retrieval.two_tower import TwoTower

ITEMS, TAGS, NOW = 2_500, 7, 123
SMALL = {"embedding_dim": 4, "units": (8,), "dim": 6}


class Space:
    """As much of a feature space as candidates ask for: a category, lists of them (some empty), a number."""

    def __init__(self, items: int = ITEMS):
        rng = np.random.default_rng(1)
        self.items = np.empty(items)
        self._ids = rng.permutation(items) + 1
        self._ids[rng.random(items) < 0.1] = 0  # cold
        lengths = rng.integers(0, 4, items)
        self._tags = Ragged(rng.integers(0, TAGS, lengths.sum()), splits_of(lengths))
        self.item_features = {
            "item_id": FeatureSpec("item_id", "category", items + 1, "item_id"),
            "item_tags": FeatureSpec("item_tags", "categories", TAGS, "item_tags"),
            "item_age": FeatureSpec("item_age", "number"),
        }
        self.query_features = {"user_id": FeatureSpec("user_id", "category", 30, "user_id")}

    def item_inputs(self, rows, now):
        age = np.log1p(rows + now).astype(np.float32)
        return {"item_id": self._ids[rows], "item_tags": self._tags.take(rows), "item_age": age}


@pytest.fixture(scope="module")
def space():
    return Space()


def _saved(folder, space, config):
    """A model of the configuration, written to a folder."""
    model = TwoTower(space.query_features, space.item_features, config, seed=2)
    generator = tf.random.Generator.from_seed(3)
    for table in model.embedding.tables.values():
        table.assign(tf.cast(generator.normal(table.shape), table.dtype))
    save_tables(model.embedding, folder / "tables")
    DenseCheckpoint(model=model, other=tf.Variable(1.0)).write(str(folder / "variables"))
    return model


def _opened(folder, space, config, tables="tables"):
    return SavedCandidates(space, config, 2, NOW, folder / "variables", folder / tables)


def _by_position(candidates, pieces):
    vectors = np.vstack([v for start, stop in pieces for v in candidates.vectors(start, stop)])
    assert vectors.dtype == np.float32
    out = np.empty_like(vectors)
    out[candidates.positions] = vectors
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embedding_precision": "bfloat16"},
        {"normalise": True, "units": ()},
        {"item_features": ("item_tags", "item_age")},
        {"tower": "identity", "item_features": ("item_id",), "query_features": ("user_id",), "dim": 4, "units": ()},
    ],
)
def test_they_are_the_models_whatever_ranks_saved_it(tmp_path, space, options, monkeypatch):
    monkeypatch.setattr("retrieval.candidates.ROWS_PER_BLOCK", 400)
    config = RetrievalConfig(**{**SMALL, **options})
    model = _saved(tmp_path, space, config)
    wanted = model.embed_items(to_tensors(space.item_inputs(np.arange(ITEMS), NOW))).numpy()
    plan = ShardingPlan(3, {name: TableSharding(name, "row_wise", (0, 1, 2)) for name in model.embedding.tables})
    reshard_tables(tmp_path / "tables", tmp_path / "of_three", plan)
    for tables in ("tables", "of_three"):
        candidates = _opened(tmp_path, space, config, tables)
        np.testing.assert_array_equal(np.sort(candidates.positions), np.arange(ITEMS))
        found = _by_position(candidates, [(0, 999), (999, 1_000), (1_000, ITEMS)])
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_piece_reads_rows_that_lie_together(tmp_path, space):
    config = RetrievalConfig(**SMALL)
    _saved(tmp_path, space, config)
    candidates = _opened(tmp_path, space, config)
    ids = space.item_inputs(candidates.positions, NOW)["item_id"]
    buckets = ids % 1_024
    assert (np.diff(buckets) >= 0).all()


def test_another_models_checkpoint_is_refused(tmp_path, space):
    _saved(tmp_path, space, RetrievalConfig(**SMALL))
    for other, config, message in (
        (Space(9), RetrievalConfig(**SMALL), "of table 'item_id' it has 2501 rows of 4, where 10 rows of 4 are"),
        (space, RetrievalConfig(**{**SMALL, "embedding_dim": 8}), "2501 rows of 4, where 2501 rows of 8 are"),
        (space, RetrievalConfig(**{**SMALL, "units": (8, 8)}), "its dense variables are others"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            _opened(tmp_path, other, config)
        assert str(tmp_path) in caught.value.message


def test_what_is_damaged_is_named(tmp_path, space):
    config = RetrievalConfig(**SMALL)
    _saved(tmp_path, space, config)
    shutil.rmtree(next((tmp_path / "tables" / "rank-00000").glob("*item_id*")))
    with pytest.raises(UserError, match="item_id"):
        list(_opened(tmp_path, space, config).vectors(0, 10))
