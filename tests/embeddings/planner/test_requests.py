"""What the planner expects a rank to ask for is what the exchange asks for."""

import numpy as np
import pytest

from embeddings.kernels import kernels
from embeddings.kernels.group import Bag
from embeddings.kernels.streams import Owners
from embeddings.planner.requests import asked_of
from embeddings.planner.tables import TableSpec
from embeddings.sharding.sharded import BUCKETS
from foundation.tf import tf

EXAMPLES, DIM = 512, 32


def _drawn(spec, factor, rng):
    """[EXAMPLES * factor] int64 by the table's law, the frequent ones anywhere in it."""
    weights = np.arange(1, spec.rows + 1) ** -spec.zipf_alpha
    of_rank = rng.choice(spec.rows, EXAMPLES * factor, p=weights / weights.sum())
    return np.random.default_rng(0).permutation(spec.rows)[of_rank]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("alpha", [0.0, 1.1])
@pytest.mark.parametrize("factors", [(1,), (20,), (1, 20), (4, 60)])
def test_ids_and_vectors_are_as_many_as_the_exchange_counts(ranks, alpha, factors):
    spec = TableSpec("video", 50_000, DIM, zipf_alpha=alpha).looked_up_by(factors)
    rng = np.random.default_rng(1)
    bags = [
        Bag(
            f"f{number}",
            0,
            tf.constant(_drawn(spec, factor, rng)),
            tf.range(EXAMPLES + 1, dtype=tf.int64) * factor,
            None,
            "sum",
        )
        for number, factor in enumerate(factors)
    ]
    owners = Owners(np.arange(BUCKETS) % ranks, True, np.zeros(0, np.int64), spec.rows)
    found = kernels().requests(bags, [owners], ranks, False, [2 * 4 * DIM])
    asked = asked_of(spec, EXAMPLES, 0, 1 / ranks, 4 * DIM)
    assert asked.ids_of(1.0) == pytest.approx(float(found.id_splits[0, -1]), rel=0.05)
    assert asked.vectors_of(1 / ranks) * ranks == pytest.approx(float(found.splits[0, -1]), rel=0.05)


def test_replicated_rows_are_not_asked_for():
    spec = TableSpec("video", 50_000, DIM, zipf_alpha=1.1).looked_up_by([20])
    every, cold = (asked_of(spec, EXAMPLES, hot, 0.5, 4 * DIM) for hot in (0, 1_000))
    assert cold.ids_of(1.0) == pytest.approx(every.ids_of(1.0) * (1 - spec.law.share(1_000)))
    assert cold.vectors_of(0.5) < every.vectors_of(0.5)
