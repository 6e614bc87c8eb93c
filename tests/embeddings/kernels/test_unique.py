"""What an exchange sends: each id once, those of one rank together; the kernel as its twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.hashing import splitmix64_of
from embeddings.kernels import compiled, kernels, reference
from embeddings.kernels.group import Bag
from embeddings.kernels.reference_exchange import FEW_IDS
from embeddings.kernels.streams import Owners
from foundation.tf import tf

WHICH = {"kernel": kernels(), "twin": reference}
NOTHING = np.zeros(0, np.int64)


def _bag(name, table, ids):
    return Bag(name, table, tf.constant(ids, tf.int64), None, None, None)


def _asked(which, features, tables, ranks, counted=False):
    """features: (table, ids). Returns (distinct ids by table, splits, places by feature)."""
    bags = [_bag(f"f{number}", table, ids) for number, (table, ids) in enumerate(features)]
    distinct, splits, places = WHICH[which].distinct_by_owner(bags, tables, ranks, counted)
    return [each.numpy() for each in distinct], splits.numpy(), [each.numpy() for each in places]


def _same(ours, twins):
    flat = [[*distinct, splits, *places] for distinct, splits, places in (ours, twins)]
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(*flat, strict=True))


@pytest.mark.parametrize("which", WHICH)
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(-5, 40) | st.integers(-(2**63), 2**63 - 1), max_size=40), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(0, 99),
    st.booleans(),
    st.booleans(),
)
def test_each_id_goes_once_to_the_rank_that_holds_its_bucket(
    which, features, some_tables, ranks, bits, seed, modulo, counted
):
    rng = np.random.default_rng(seed)
    count = min(some_tables, len(features))
    common = np.arange(3, 9) if seed % 3 == 0 else NOTHING
    tables = [Owners(rng.integers(0, ranks, 1 << bits), modulo, common, None) for _ in range(count)]
    features = [(number % count, ids) for number, ids in enumerate(features)]
    found = _asked(which, features, tables, ranks, counted)
    distinct, splits, places = found
    for table, (of_table, cuts, owners) in enumerate(zip(distinct, splits, tables, strict=True)):
        ids, of_features = of_table[:, 0], [f for f, (t, _) in enumerate(features) if t == table]
        came = [identifier for f in of_features for identifier in features[f][1]]
        for f in of_features:
            assert np.array_equal(ids[places[f]], np.array(features[f][1], np.int64))
        assert len(np.unique(ids)) == len(ids) == len(set(came))
        assert of_table.shape[1] == 1 + counted
        if counted:
            assert [came.count(identifier) for identifier in ids] == list(of_table[:, 1])
        hashes = splitmix64_of(ids.astype(np.uint64)).astype(object)
        buckets = ids % (1 << bits) if modulo else [int(hashed) >> (64 - bits) for hashed in hashes]
        held = [
            ranks if identifier in common else owners.of_buckets[bucket]
            for identifier, bucket in zip(ids, buckets, strict=True)
        ]
        assert held == sorted(held)
        assert cuts[0] == 0
        assert cuts[-1] == len(ids)
        assert [held.count(rank) for rank in range(ranks + 1)] == list(np.diff(cuts))
    if compiled():
        assert _same(found, _asked("twin", features, tables, ranks, counted))


@pytest.mark.skipif(not compiled(), reason="no compiler here: the twin does the work")
@pytest.mark.parametrize("count", [FEW_IDS, FEW_IDS + 1, 50_000])
def test_many_ids_stand_as_the_twins_do(count):
    rng = np.random.default_rng(count)
    tables = [Owners(rng.integers(0, 3, 1024), modulo, np.arange(50), None) for modulo in (True, False)]
    features = [(0, rng.zipf(1.2, count) % 10_000), (1, rng.integers(0, 10**12, 3))]
    assert _same(*(_asked(which, features, tables, 3) for which in WHICH))


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize(
    ("owners", "message"), [([0, 1, 0], "a power of two of buckets is wanted"), ([0, 2], "owners: ")]
)
def test_owners_that_make_no_sense_are_refused(which, owners, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        _asked(which, [(0, [1, 2])], [Owners(np.array(owners, np.int64), False, NOTHING, None)], 2)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("wrong", [-1, 40, 2**62])
def test_an_id_outside_its_vocabulary_is_told_with_its_feature(which, wrong):
    tables = [Owners(np.zeros(1, np.int64), True, NOTHING, size) for size in (None, 40)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="feature f1: ids outside its vocabulary, 0 to 39"):
        _asked(which, [(0, [wrong]), (1, [3, wrong])], tables, 2)
