"""Checkpoints are whole or not there, and the best one stays."""

from pathlib import Path

import pytest

from embeddings import SGD, FeatureConfig, ShardedEmbedding, TableConfig
from embeddings.dense import DenseCheckpoint
from foundation.errors import UserError
from foundation.tf import tf
from trainer.checkpoint import CheckpointStore
from trainer.world import alone


class Model(tf.Module):
    """One dense variable and one table."""

    def __init__(self, numbers):
        super().__init__()
        self.x = tf.Variable(numbers)
        self.embedding = ShardedEmbedding({"id": FeatureConfig(TableConfig("t", 5, 4, SGD(0.1)))})


def _store(folder, model):
    return CheckpointStore(folder / "c", DenseCheckpoint(model=model), model.embedding, alone(), keep=2)


@pytest.fixture
def model():
    return Model([1.0, 2.0])


@pytest.fixture
def store(model, tmp_path):
    return _store(tmp_path, model)


def test_saved_and_restored(store, model):
    rows = model.embedding.table("t").numpy()
    store.save(3, {"position": 7}, best_step=None)
    model.x.assign([9.0, 9.0])
    model.embedding.table("t").assign(tf.ones((5, 4)))
    store.wait()
    assert store.restore(store.at(3)) == {"position": 7}
    assert model.x.numpy().tolist() == [1.0, 2.0]
    assert (model.embedding.table("t").numpy() == rows).all()


def test_the_last_ones_and_the_best_stay(store):
    for step in range(1, 7):
        store.save(step, {}, best_step=2)
    store.wait()
    assert [stored.step for stored in store.all()] == [2, 5, 6]


def test_every_so_many_steps_one_stays(model, tmp_path):
    store = CheckpointStore(tmp_path, DenseCheckpoint(model=model), model.embedding, alone(), keep=1, keep_every=3)
    for step in range(1, 9):
        store.save(step, {}, best_step=None)
    store.wait()
    assert [stored.step for stored in store.all()] == [3, 6, 8]


def test_a_truncated_file_is_named(store):
    stored = store.save(1, {}, best_step=None)
    store.wait()
    data = next(stored.path.glob("variables.data*"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"variables.data.*: this checkpoint file is [0-9]+ bytes long instead of [0-9]+"
    ):
        store.restore(stored)


@pytest.mark.parametrize("content", ["{}", "[]", '{"state": {}, "sizes": 3}', "{"])
def test_a_damaged_state_is_named(store, content):
    stored = store.save(1, {}, best_step=None)
    store.wait()
    (stored.path / "state.json").write_text(content)
    with pytest.raises(UserError, match=r"step-00000001/state.json: .*(damaged|not valid JSON)"):
        store.restore(stored)


def test_another_model_is_refused(store, tmp_path):
    stored = store.save(1, {}, best_step=None)
    store.wait()
    other = _store(tmp_path, Model([1.0, 2.0, 3.0]))
    with pytest.raises(UserError, match="does not fit the model"):
        other.restore(stored)


def test_what_a_killed_writer_left_is_no_checkpoint(store):
    store.save(1, {}, best_step=None)
    store.wait()
    (store.directory / ".step-00000002.99.partial").mkdir()
    assert [stored.step for stored in store.all()] == [1]
    with pytest.raises(UserError, match="no checkpoint of step 2"):
        store.at(2)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_table_is_named(store, damage):
    stored = store.save(1, {}, best_step=None)
    store.wait()
    rows = next(path for path in (stored.path / "tables").glob("**/rows/c/**/*") if path.is_file())
    damage(rows)
    with pytest.raises(UserError, match=f"rows.*{rows.name}"):
        store.restore(stored)
