"""A snapshot is of its moment, whatever is trained while it is written."""

import os

import numpy as np
import pytest

from embeddings import Adagrad, FeatureConfig, FrequencyAdmission, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.checkpoints import images, restore_tables, snapshot_tables
from embeddings.kernels import compiled
from foundation.tf import tf

IDS = np.arange(400)


def _layer():
    static = TableConfig("static", 400, 8, Adagrad(0.1))
    dynamic = TableConfig("dynamic", None, 16, RowWiseAdagrad(0.1), admission=FrequencyAdmission(2))
    half = TableConfig("half", 400, 4, Adagrad(0.1), precision="bfloat16")
    return ShardedEmbedding({table.name: FeatureConfig(table) for table in (static, dynamic, half)})


def _train(layer, seed):
    rng = np.random.default_rng(seed)
    with tf.GradientTape() as tape:
        vectors = layer({name: tf.constant(rng.integers(0, 400, 64)) for name in layer.features}, training=True)
        loss = tf.add_n([tf.reduce_sum(tf.square(each + 1.0)) for each in vectors.values()])
    tape.gradient(loss, layer.trainable_variables)


def _state(layer):
    vectors = layer({name: tf.constant(IDS) for name in layer.features})
    slots = {
        f"{name}/{slot}": values.numpy()
        for name in ("static", "half")
        for slot, values in layer.held(name).slots.items()
    }
    counts = {name: int(value) for name, value in layer.counts()["dynamic"].items()}
    return {name: tf.cast(each, tf.float32).numpy() for name, each in vectors.items()}, slots, counts


def _assert_same(ours, theirs):
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert mine.keys() == other.keys()
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
    assert ours[2] == theirs[2]


@pytest.fixture(params=["as it comes", "copied", "live"])
def taken(request, monkeypatch):
    """How the image is made, where it can be chosen; gives snapshot_tables."""
    if request.param != "as it comes":
        image = {"copied": images.Copied, "live": lambda variables: images.Live()}[request.param]
        monkeypatch.setattr("embeddings.checkpoints.tables.image_of", image)
    return snapshot_tables


def test_what_is_trained_while_it_is_written_is_not_in_it(taken, tmp_path):
    layer = _layer()
    for seed in range(5):
        _train(layer, seed)
    was = _state(layer)
    with taken(layer) as snapshot:
        if snapshot.holds:
            for seed in range(5, 25):
                _train(layer, seed)
        snapshot.write(tmp_path)
    other = _layer()
    restore_tables(other, tmp_path)
    _assert_same(_state(other), was)
    if snapshot.holds:
        assert not np.array_equal(_state(layer)[0]["static"], was[0]["static"])


@pytest.mark.skipif(not compiled(), reason="no compiler here: tables are copied")
def test_compiled_tables_are_not_copied():
    layer = _layer()
    with snapshot_tables(layer) as snapshot:
        assert isinstance(snapshot._image, images.Forked)


def test_a_rank_that_holds_nothing_need_not_wait():
    assert images.image_of([]).holds


def test_a_fork_that_fails_leaves_nothing_open_and_tables_are_copied(monkeypatch):
    if not compiled():
        pytest.skip("no compiler here: tables are copied")

    def no_room():
        raise OSError(12, "Cannot allocate memory")

    layer = _layer()
    monkeypatch.setattr(os, "fork", no_room)
    open_before = len(os.listdir("/proc/self/fd"))
    with snapshot_tables(layer) as snapshot:
        assert isinstance(snapshot._image, images.Copied)
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_without_memory_for_copies_training_waits(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HEADRACE_KERNELS", "off")
    monkeypatch.setattr(images, "_available_memory", lambda: 0)
    layer = _layer()
    with snapshot_tables(layer) as snapshot:
        assert not snapshot.holds
    assert "training waits while they are written" in capsys.readouterr().err
