"""A model's checkpoint without its tables."""

import numpy as np
import pytest

from embeddings import DenseCheckpoint, FeatureConfig, ShardedEmbedding, TableConfig
from embeddings.compressed import Block, MixedDimensionEmbedding
from foundation.tf import keras, tf


class _Model(keras.Model):
    def __init__(self, dim=4):
        super().__init__()
        static, dynamic = TableConfig("static", 50, dim), TableConfig("open", None, dim)
        self.embedding = ShardedEmbedding({"static": FeatureConfig(static), "open": FeatureConfig(dynamic)})
        mixed = FeatureConfig(TableConfig("mixed", 50, dim))
        self.mixed = MixedDimensionEmbedding({"m": mixed}, {"mixed": [Block(10, dim), Block(40, 2)]})
        self.dense = keras.layers.Dense(3)
        self.dense.build((None, 2 * dim))


def _made(dim=4):
    model, optimizer = _Model(dim), keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    return {"model": model, "optimizer": optimizer}


def test_it_holds_what_is_dense_and_no_table(tmp_path):
    made, other = _made(), _made()
    path = DenseCheckpoint(**made).write(str(tmp_path / "variables"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert sum("/dense/" in name for name in names) == 2
    assert sum("projection" in name for name in names) == 1
    assert any(name.startswith("optimizer/_variables") for name in names)
    assert not [name for name in names if "table" in name or "rows" in name or "_step_variables" in name]
    kept = other["model"].embedding.table("static")
    kept.assign(tf.ones_like(kept))
    DenseCheckpoint(**other).read(path)
    for one, two in zip(made["model"].trainable_variables, other["model"].trainable_variables, strict=True):
        assert np.array_equal(one, two)
    assert np.all(kept.numpy() == 1)


def test_a_plain_checkpoint_holds_the_tables_as_ever(tmp_path):
    made, other = _made(), _made()
    DenseCheckpoint(**made).write(str(tmp_path / "dense"))
    rows = made["model"].embedding.table("static")
    rows.assign(tf.random.stateless_uniform(rows.shape, (1, 2)))
    path = tf.train.Checkpoint(**made).write(str(tmp_path / "variables"))
    tf.train.Checkpoint(**other).read(path).assert_consumed()
    assert np.array_equal(rows, other["model"].embedding.table("static"))


def test_another_model_is_refused(tmp_path):
    path = DenseCheckpoint(**_made()).write(str(tmp_path / "variables"))
    with pytest.raises((ValueError, AssertionError)):
        DenseCheckpoint(**_made(dim=8)).read(path)
    with pytest.raises(AssertionError):
        DenseCheckpoint(**_made(), more=tf.Variable(1.0)).read(path)
    with pytest.raises(tf.errors.NotFoundError):
        DenseCheckpoint(**_made()).read(str(tmp_path / "nowhere"))
