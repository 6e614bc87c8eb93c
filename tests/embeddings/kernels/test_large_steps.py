"""Steps of many chunks: ids that repeat within a chunk are summed there, others come to their part one by one."""

import dataclasses

import numpy as np
import pytest

from embeddings import Adagrad, RowWiseAdagrad, TableConfig
from embeddings.kernels import compiled, kernels, reference
from embeddings.kernels.group import Bag, TableGroup
from embeddings.tables.static import StaticTable
from foundation.tf import tf

pytestmark = pytest.mark.skipif(not compiled(), reason="no compiler here: the twin does the work")
ROWS, COUNT, DIM = 100_000, 30_000, 16


def _ids(kind):
    rng = np.random.default_rng(3)
    skewed = np.minimum(rng.zipf(1.2, COUNT), ROWS) - 1
    spread = rng.permutation(ROWS)[:COUNT]  # no id twice
    return {
        "skewed": skewed,
        "spread": spread,
        "two_halves": np.concatenate([skewed[: COUNT // 2], spread[: COUNT // 2]]),
        "turning": np.concatenate([spread[:1024], skewed[1024:]]),  # the head of a chunk does not tell of its rest
        "one": np.zeros(COUNT, np.int64),
    }[kind]


def _bags(kind, combiner):
    ids = _ids(kind)
    if combiner is None:
        return Bag("f", 0, tf.constant(ids, tf.int64), None, None, None), COUNT
    rng = np.random.default_rng(4)
    cuts = np.sort(rng.integers(0, COUNT + 1, 2_000))
    splits = np.concatenate([[0], cuts, [COUNT]])
    weights = tf.constant(rng.uniform(0.5, 2.0, COUNT), tf.float32)
    return Bag("f", 0, tf.constant(ids, tf.int64), tf.constant(splits, tf.int64), weights, combiner), len(splits) - 1


@pytest.mark.parametrize("combiner", [None, "mean"])
@pytest.mark.parametrize("clip", [{}, {"clipnorm": 3.0}])
@pytest.mark.parametrize("kind", ["skewed", "spread", "two_halves", "turning", "one"])
def test_a_large_step_leaves_what_the_twins_leaves(kind, clip, combiner):
    bag, bags = _bags(kind, combiner)
    second = dataclasses.replace(bag, name="g")
    gradients = [tf.constant(np.random.default_rng(seed).normal(size=(bags, DIM)), tf.float32) for seed in (5, 6)]
    optimizer = RowWiseAdagrad(0.1, **clip) if combiner else Adagrad(0.1, **clip)
    states = []
    for which in (kernels(), reference):
        group = TableGroup((StaticTable(TableConfig("t", ROWS, DIM, optimizer)),))
        for _ in range(2):
            which.update(group, [bag, second], gradients)
        states.append([variable.numpy() for variable in group.tables[0].variables.values()])
    for mine, theirs in zip(*states, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
