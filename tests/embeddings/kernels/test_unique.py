"""What an exchange sends: each id once, those of one rank together; the kernel as its twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.hashing import splitmix64_of
from embeddings.kernels import compiled, kernels, reference
from foundation.tf import tf

WHICH = {"kernel": kernels(), "twin": reference}


def _asked(which, ids, owners, ranks, modulo=False):
    constants = [tf.constant(values, tf.int64) for values in (ids, owners)]
    return [result.numpy() for result in WHICH[which].unique_by_owner(*constants, ranks, modulo)]


@pytest.mark.parametrize("which", WHICH)
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-5, 40) | st.integers(-(2**63), 2**63 - 1), max_size=60),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(0, 99),
    st.booleans(),
)
def test_each_id_goes_once_to_the_rank_that_holds_its_bucket(which, ids, ranks, bits, seed, modulo):
    owners = np.random.default_rng(seed).integers(0, ranks, 1 << bits)
    distinct, splits, places = _asked(which, ids, owners, ranks, modulo)
    assert np.array_equal(distinct[places], np.array(ids, np.int64))
    assert len(np.unique(distinct)) == len(distinct) == len(set(ids))
    assert splits[0] == 0
    assert splits[-1] == len(distinct)
    hashes = splitmix64_of(distinct.astype(np.uint64)).astype(object)
    buckets = distinct % (1 << bits) if modulo else [int(hashed) >> (64 - bits) for hashed in hashes]
    held = [owners[bucket] for bucket in buckets]
    assert held == sorted(held)
    assert [held.count(rank) for rank in range(ranks)] == list(np.diff(splits))
    if compiled():
        for mine, theirs in zip((distinct, splits, places), _asked("twin", ids, owners, ranks, modulo), strict=True):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize(
    ("owners", "message"), [([0, 1, 0], "a power of two of buckets is wanted"), ([0, 2], "owners: ")]
)
def test_owners_that_make_no_sense_are_refused(which, owners, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        _asked(which, [1, 2], owners, 2)
