"""A training that was saved and read goes on as if nothing had been."""

import numpy as np
import pytest

from embeddings import (
    Adam,
    FeatureConfig,
    FrequencyAdmission,
    LeastFrequentlyUsed,
    RowWiseAdagrad,
    ShardedEmbedding,
    TableConfig,
    TimeToLive,
    restore_tables,
    save_tables,
)
from foundation.tf import tf
from tests.embeddings.checkpoints.worlds import state_of

POLICIES = [
    {},
    {"admission": FrequencyAdmission(2, 1024), "eviction": TimeToLive(5)},
    {"capacity": 100, "eviction": LeastFrequentlyUsed()},
]


def _layer(policies):
    static = TableConfig("static", 500, 8, RowWiseAdagrad(0.1), precision="bfloat16")
    dynamic = TableConfig("open", None, 8, Adam(0.1), slot_precision="bfloat16", **policies)
    return ShardedEmbedding({"one": FeatureConfig(static, "sum"), "many": FeatureConfig(dynamic, "mean")})


def _train(layer, steps):
    for step in steps:
        rng = np.random.default_rng(step)
        inputs = {name: tf.constant(rng.zipf(1.3, (40, 3)) % 500) for name in ("one", "many")}
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_mean(tf.square(v - 1.0)) for v in layer(inputs, training=True).values()])
        tape.gradient(loss, layer.trainable_variables)


@pytest.mark.parametrize(("policies", "kernels"), [*((each, "auto") for each in POLICIES), (POLICIES[1], "off")])
def test_it_goes_on_bit_by_bit(tmp_path, monkeypatch, policies, kernels):
    monkeypatch.setenv("HEADRACE_KERNELS", kernels)
    undisturbed, first, second = (_layer(policies) for _ in range(3))
    _train(undisturbed, range(8))
    _train(first, range(4))
    save_tables(first, tmp_path)
    before = [state_of(shard) for shard in first.shards()]
    _train(second, range(20, 22))  # what it held before is gone
    restore_tables(second, tmp_path)
    assert [state_of(shard) for shard in second.shards()] == before
    _train(second, range(4, 8))
    for one, two in zip(undisturbed.shards(), second.shards(), strict=True):
        assert state_of(one) == state_of(two)
    assert [state_of(shard) for shard in first.shards()] == before, "saving changes nothing"


def test_another_admission_counts_anew_and_says_so(tmp_path, capfd):
    layer, other = _layer({}), _layer({"admission": FrequencyAdmission(3)})
    _train(layer, range(3))
    save_tables(layer, tmp_path)
    restore_tables(other, tmp_path)
    assert "table 'open': admission or capacity is another than when it was saved" in capfd.readouterr().err
    assert np.array_equal(layer.vocabulary("open").ids, other.vocabulary("open").ids)
