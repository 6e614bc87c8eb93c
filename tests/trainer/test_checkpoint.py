"""Checkpoints are whole or not there, and the best one stays."""

import pytest

from foundation.errors import UserError
from foundation.tf import tf
from trainer.checkpoint import CheckpointStore


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "c", tf.train.Checkpoint(x=tf.Variable([1.0, 2.0])), keep=2)


def test_saved_and_restored(store):
    store.save(3, {"position": 7}, best_step=None)
    store.tracked.x.assign([9.0, 9.0])
    assert store.restore(store.at(3)) == {"position": 7}
    assert store.tracked.x.numpy().tolist() == [1.0, 2.0]


def test_the_last_ones_and_the_best_stay(store):
    for step in range(1, 7):
        store.save(step, {}, best_step=2)
    assert [stored.step for stored in store.all()] == [2, 5, 6]


def test_a_truncated_file_is_named(store):
    stored = store.save(1, {}, best_step=None)
    data = next(stored.path.glob("variables.data*"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"variables.data.*: this checkpoint file is [0-9]+ bytes long instead of [0-9]+"
    ):
        store.restore(stored)


@pytest.mark.parametrize("content", ["{}", "[]", '{"state": {}, "sizes": 3}', "{"])
def test_a_damaged_state_is_named(store, content):
    stored = store.save(1, {}, best_step=None)
    (stored.path / "state.json").write_text(content)
    with pytest.raises(UserError, match=r"step-00000001/state.json: .*(damaged|not valid JSON)"):
        store.restore(stored)


def test_another_model_is_refused(store, tmp_path):
    stored = store.save(1, {}, best_step=None)
    other = CheckpointStore(tmp_path / "c", tf.train.Checkpoint(x=tf.Variable([1.0, 2.0, 3.0])))
    with pytest.raises(UserError, match="does not fit the model"):
        other.restore(stored)


def test_what_a_killed_writer_left_is_no_checkpoint(store):
    store.save(1, {}, best_step=None)
    (store.directory / ".step-00000002.99.partial").mkdir()
    assert [stored.step for stored in store.all()] == [1]
    with pytest.raises(UserError, match="no checkpoint of step 2"):
        store.at(2)
