"""What an exchange asks for: each id once, or the ids of a bag together, those of one rank behind one another; the
kernel as its twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.hashing import splitmix64_of
from embeddings.kernels import compiled, kernels, reference
from embeddings.kernels.group import Bag
from embeddings.kernels.reference_requests import COUNTED_IN_FULL, FEW_IDS
from embeddings.kernels.streams import JOINS, Owners
from foundation.tf import tf

WHICH = {"kernel": kernels(), "twin": reference}
NOTHING = np.zeros(0, np.int64)


def _bag(name, table, ids):
    return Bag(name, table, tf.constant(ids, tf.int64), None, None, None)


def _asked(which, features, tables, ranks, counted=False):
    """features: (table, ids). Returns (distinct ids by table, splits, places by feature)."""
    bags = [_bag(f"f{number}", table, ids) for number, (table, ids) in enumerate(features)]
    asked = WHICH[which].requests(bags, tables, ranks, counted, [8] * len(tables))
    assert np.array_equal(asked.id_splits, asked.splits), "each request is one id"
    return [each.numpy() for each in asked.sent], asked.splits.numpy(), [each.ids.numpy() for each in asked.bags]


def _same(ours, twins):
    flat = [[*distinct, splits, *places] for distinct, splits, places in (ours, twins)]
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(*flat, strict=True))


@pytest.mark.parametrize("which", WHICH)
@settings(deadline=None, max_examples=40)
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


@st.composite
def bags_of_static_tables(draw):
    """(bags, owners, ranks, row_bytes): features of bags and of single ids, of tables of 40 and 600 ids."""
    ranks, tables = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sizes = [40, 600][:tables]
    bags = []
    for number in range(draw(st.integers(1, 4))):
        table = number % tables
        combiner = draw(st.sampled_from([None, "sum", "mean", "sqrtn"]))
        lengths = rng.integers(0, draw(st.sampled_from([2, 12])), draw(st.integers(0, 9)))
        ids = rng.integers(0, sizes[table], lengths.sum())
        splits = tf.constant(np.cumsum([0, *lengths]), tf.int64) if combiner else None
        bags.append(Bag(f"f{number}", table, tf.constant(ids, tf.int64), splits, None, combiner))
    for table in range(tables):
        if all(bag.table != table for bag in bags):
            bags.append(_bag("more", table, [3]))
    common = np.arange(2, 9) if draw(st.booleans()) else NOTHING
    owners = [Owners(rng.integers(0, ranks, 16), True, common, size) for size in sizes]
    return bags, owners, ranks, [draw(st.sampled_from([0, 8, 512])) for _ in range(tables)]


def _ids_of_requests(asked, table):
    """[requests] of the ids that each asks for."""
    found = []
    for identifier in asked.sent[table].numpy()[:, 0]:
        if identifier & JOINS:
            found[-1].append(identifier & ~JOINS)
        else:
            found.append([identifier])
    return found


def _pooled_bytes(bag, owners, row_bytes):
    """(asked for by the bag, asked for by id) of the ids that are not common."""
    ids, splits = bag.ids.numpy(), bag.splits.numpy()
    rows = np.repeat(np.arange(len(splits) - 1), np.diff(splits))
    own = ~np.isin(ids, owners.common)
    groups = {(row, owners.of_buckets[identifier % 16]) for row, identifier in zip(rows[own], ids[own], strict=True)}
    return 8 * own.sum() + row_bytes * len(groups), (8 + row_bytes) * len(set(ids[own]))


@pytest.mark.parametrize("which", WHICH)
@settings(deadline=None, max_examples=40)
@given(bags_of_static_tables(), st.booleans())
def test_a_bags_requests_are_of_its_ids_and_go_to_who_holds_them(which, drawn, counted):
    bags, owners, ranks, row_bytes = drawn
    asked = WHICH[which].requests(bags, owners, ranks, counted, row_bytes)
    for table, of_table in enumerate(owners):
        requests, splits, cuts = _ids_of_requests(asked, table), asked.splits[table].numpy(), asked.id_splits[table]
        assert splits[-1] == len(requests)
        assert cuts[-1] == len(asked.sent[table])
        for rank in range(ranks + 1):
            mine = requests[splits[rank] : splits[rank + 1]]
            assert cuts[rank + 1] - cuts[rank] == sum(map(len, mine))
            for identifier in np.concatenate([[], *mine]).astype(np.int64):
                holder = ranks if identifier in of_table.common else of_table.of_buckets[identifier % 16]
                assert holder == rank
        if counted:
            came = sum(len(bag.ids) for bag in bags if bag.table == table)
            assert asked.sent[table][:, 1].numpy().sum() == came
    for bag, over in zip(bags, asked.bags, strict=True):
        requests = _ids_of_requests(asked, bag.table)
        if bag.splits is None:
            assert [requests[place] for place in over.ids.numpy()] == [[identifier] for identifier in bag.ids.numpy()]
            continue
        assert over.combiner == "sum"
        places, before, after = over.ids.numpy(), bag.splits.numpy(), over.splits.numpy()
        for row in range(len(before) - 1):
            ids = bag.ids.numpy()[before[row] : before[row + 1]]
            of_row = slice(after[row], after[row + 1])
            assert sorted(i for place in places[of_row] for i in requests[place]) == sorted(ids)
            if over.weights is not None:
                norm = {"mean": len(ids), "sqrtn": np.sqrt(len(ids))}[bag.combiner]
                np.testing.assert_allclose(over.weights.numpy()[of_row], 1 / norm if len(ids) else 0, rtol=1e-6)
        together, alone = _pooled_bytes(bag, owners[bag.table], row_bytes[bag.table])
        if any(len(requests[place]) > 1 for place in places):
            assert together < alone
        elif together < alone:  # what is asked for together is one id each
            assert len(bag.ids) == len(places)
    if compiled() and which == "kernel":
        twins = reference.requests(bags, owners, ranks, counted, row_bytes)
        assert _tensors(asked, twins)


def _tensors(ours, theirs):
    """Whether two are the same: norms to a rounding, all else to the bit."""
    flat = [[*a.sent, a.id_splits, a.splits, *(bag.ids for bag in a.bags)] for a in (ours, theirs)]
    for mine, twins in zip(ours.bags, theirs.bags, strict=True):
        assert (mine.splits is None) == (twins.splits is None)
        if mine.splits is not None:
            assert np.array_equal(mine.splits, twins.splits)
        if mine.weights is not None:
            np.testing.assert_allclose(mine.weights, twins.weights, rtol=1e-6)
    return all(np.array_equal(mine, twins) for mine, twins in zip(*flat, strict=True))


@pytest.mark.skipif(not compiled(), reason="no compiler here: the twin does the work")
@pytest.mark.parametrize("bag", [1, 30])
@pytest.mark.parametrize("rows", [4_000, 10**6])
def test_large_bags_are_asked_for_as_the_twin_does(bag, rows):
    rng = np.random.default_rng(bag)
    count = 2 * COUNTED_IN_FULL // bag * bag
    splits = tf.range(count // bag + 1, dtype=tf.int64) * bag
    bags = [
        Bag("history", 0, tf.constant(rng.integers(0, rows, count)), splits, None, "mean"),
        _bag("item", 0, rng.integers(0, rows, 500)),
    ]
    owners = [Owners(rng.integers(0, 3, 1024), True, np.arange(50), rows)]
    ours, theirs = (which.requests(bags, owners, 3, False, [512]) for which in WHICH.values())
    assert _tensors(ours, theirs)
    pooled = any(map(len, filter(lambda ids: len(ids) > 1, _ids_of_requests(ours, 0))))
    assert pooled == (bag == 30 and rows == 10**6)


@pytest.mark.parametrize("which", WHICH)
def test_bags_whose_splits_do_not_fit_are_refused(which):
    bag = Bag("history", 0, tf.constant([1, 2], tf.int64), tf.constant([0, 3], tf.int64), None, "sum")
    with pytest.raises(tf.errors.InvalidArgumentError, match="history: row_splits must rise from 0"):
        WHICH[which].requests([bag], [Owners(np.zeros(1, np.int64), True, NOTHING, 40)], 1, False, [8])
