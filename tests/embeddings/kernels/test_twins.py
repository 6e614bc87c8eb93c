"""The compiled kernels give the twin's numbers, and the same bits every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import FTRL, SGD, Adagrad, Adam, RowWiseAdagrad, TableConfig
from embeddings.kernels import compiled, kernels, reference
from embeddings.kernels.group import Bag, TableGroup
from embeddings.tables.static import StaticTable
from foundation.tf import tf

pytestmark = pytest.mark.skipif(not compiled(), reason="no compiler here: the twin does the work")
OPTIMIZERS = (SGD, Adagrad, RowWiseAdagrad, Adam, FTRL)
PRECISIONS = st.sampled_from(["float32", "bfloat16", "float16"])
ROWS = 40
WHICH = (kernels(), reference)


@st.composite
def features(draw):
    """One feature: its table, combiner, and per bag its ids with weights, or None where there are no weights."""
    combiner = draw(st.sampled_from([None, "sum", "mean", "sqrtn"]))
    weights = st.just(0.0) | st.floats(2.0**-20, 3, width=32)
    most = 1 if combiner is None else 6
    bags = draw(st.lists(st.lists(st.tuples(st.integers(0, ROWS - 1), weights), max_size=most), max_size=12))
    return draw(st.integers(0, 1)), combiner, bags, draw(st.booleans()) and combiner is not None


def _bag(name, feature):
    table, combiner, bags, weighted = feature
    flat = [pair for bag in bags for pair in bag]
    ids = tf.constant([identifier for identifier, _ in flat], tf.int64)
    splits = tf.constant(np.cumsum([0, *map(len, bags)]), tf.int64)
    weights = tf.constant([weight for _, weight in flat], tf.float32)
    return Bag(name, table, ids, splits if combiner else None, weights if weighted else None, combiner)


def _tables(optimizer, dim, **precision):
    with_slots = [StaticTable(TableConfig(name, ROWS, dim, optimizer, **precision)) for name in ("a", "b")]
    return TableGroup(tuple(with_slots))


def _state(group):
    return [v.numpy() for table in group.tables for v in table.variables.values()]


def _three_steps(group, which, bags, seed):
    """The outputs of each step, with random gradients."""
    rng, outputs = np.random.default_rng(seed), []
    for _ in range(3):
        outputs.append([output.numpy() for output in which.lookup(group, bags)])
        which.update(group, bags, [tf.constant(rng.normal(size=o.shape), tf.float32) for o in outputs[-1]])
    return outputs


@settings(deadline=None, max_examples=40)
@given(
    st.lists(features(), min_size=1, max_size=4),
    st.sampled_from(OPTIMIZERS),
    st.sampled_from([1, 3, 16, 24, 64]),
    st.sampled_from([{}, {"clipnorm": 0.5}, {"clipvalue": 0.05}]),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 2**31),
)
def test_three_steps_leave_what_the_twins_leave(chosen, kind, dim, clip, decay, seed):
    optimizer = kind(0.1, **({"l1": decay, "l2": decay} if kind is FTRL else {"weight_decay": decay}), **clip)
    groups = [_tables(optimizer, dim) for _ in range(2)]
    bags = [_bag(f"f{i}", feature) for i, feature in enumerate(chosen)]
    ours, twins = (_three_steps(group, which, bags, seed) for which, group in zip(WHICH, groups, strict=True))
    for step in zip(ours, twins, strict=True):
        for mine, theirs in zip(*step, strict=True):
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(*map(_state, groups), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.lists(st.integers(0, ROWS - 1), unique=True, max_size=40)] * 2),
    st.sampled_from(OPTIMIZERS),
    st.sampled_from([1, 3, 16, 24, 64]),
    st.sampled_from([{}, {"clipnorm": 0.5}, {"clipvalue": 0.05}]),
    PRECISIONS,
    st.integers(0, 2**31),
)
def test_a_step_on_distinct_rows_is_an_update(rows, kind, dim, clip, precision, seed):
    groups = [_tables(kind(0.1, **clip), dim, precision=precision) for _ in range(3)]
    rng = np.random.default_rng(seed)
    bags = [
        Bag(f"f{t}", t, tf.constant(np.array(of_table, np.int64)), None, None, None) for t, of_table in enumerate(rows)
    ]
    for _ in range(2):
        gradients = [tf.constant(rng.normal(size=(len(of_table), dim)), tf.float32) for of_table in rows]
        groups_and_calls = zip(groups, [which.step for which in WHICH] + [WHICH[0].update], strict=True)
        for group, call in groups_and_calls:
            call(group, bags, gradients)
    ours, twins, updated = map(_state, groups)
    for mine, theirs, once in zip(ours, twins, updated, strict=True):
        close = {"rtol": 1e-5, "atol": 1e-5} if precision == "float32" else {"rtol": 0.02, "atol": 0.01}
        for other in (theirs, once):
            np.testing.assert_allclose(mine.astype(np.float32), other.astype(np.float32), **close)


def test_distinct_rows_outside_their_table_are_refused():
    group = _tables(SGD(0.1), 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="f: ids outside its vocabulary"):
        WHICH[0].step(group, [Bag("f", 0, tf.constant([ROWS], tf.int64), None, None, None)], [tf.zeros([1, 4])])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(features(), min_size=1, max_size=3),
    st.sampled_from([1, 4, 7, 64]),
    PRECISIONS,
    PRECISIONS,
    st.integers(0, 2**31),
)
def test_sixteen_bits_are_rounded_as_the_twin_rounds_them(chosen, dim, precision, slot_precision, seed):
    """The gradients are such that every sum and product is exact, so that both round the same numbers."""
    optimizer = Adagrad(0.0) if seed % 2 else SGD(0.5)
    groups = [_tables(optimizer, dim, precision=precision, slot_precision=slot_precision) for _ in range(2)]
    bags = [
        _bag(f"f{i}", (table, combiner and "sum", ids, False)) for i, (table, combiner, ids, _) in enumerate(chosen)
    ]
    rng = np.random.default_rng(seed)
    for _ in range(3):
        shapes = [(bag.ids.shape[0] if bag.splits is None else bag.splits.shape[0] - 1, dim) for bag in bags]
        gradients = [tf.constant(rng.integers(-8, 8, shape) * 2.0**-10, tf.float32) for shape in shapes]
        for which, group in zip(WHICH, groups, strict=True):
            which.update(group, bags, gradients)
    for mine, theirs in zip(*map(_state, groups), strict=True):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 300), st.integers(1, 70), PRECISIONS)
@settings(deadline=None, max_examples=20)
def test_new_rows_are_the_twins_to_the_bit(seed, rows, dim, precision):
    config = TableConfig("t", rows, dim, seed=seed, initializer_scale=0.07, precision=precision)
    assert np.array_equal(kernels().new_rows(config).numpy(), reference.new_rows(config).numpy())
    slots = [which.new_slot((rows, dim), 0.1, tf.as_dtype(precision), "s").numpy() for which in WHICH]
    assert slots[0].dtype == slots[1].dtype
    assert np.array_equal(*slots)


def _wrong(kind):
    ids, splits, weights, combiner = [1, 2, 3], None, None, None
    if kind == "negative":
        ids = [1, -2, 3]
    elif kind == "beyond":
        ids = [1, 2, ROWS]
    elif kind == "huge":
        ids = [1, 2**62, 3]
    elif kind in ("nan", "inf"):
        splits, weights, combiner = [0, 2, 3], [1.0, float(kind), 1.0], "sum"
    elif kind == "short splits":
        splits, combiner = [0, 2], "mean"
    elif kind == "falling splits":
        splits, combiner = [0, 3, 1, 3], "mean"
    elif kind == "late splits":
        splits, combiner = [1, 3], "mean"
    splits = None if splits is None else tf.constant(splits, tf.int64)
    weights = None if weights is None else tf.constant(weights)
    return Bag("video", 0, tf.constant(ids, tf.int64), splits, weights, combiner)


@pytest.mark.parametrize("which", ["kernel", "twin"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *((kind, "feature video: ids outside its vocabulary, 0 to 39") for kind in ("negative", "beyond", "huge")),
        *((kind, "feature video: weights must be finite") for kind in ("nan", "inf")),
        *((f"{kind} splits", "feature video: row_splits must rise from 0") for kind in ("short", "falling", "late")),
    ],
)
def test_what_cannot_be_looked_up_is_an_error_that_names_the_feature(which, kind, message):
    chosen = kernels() if which == "kernel" else reference
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        chosen.lookup(_tables(SGD(0.1), 8), [_wrong(kind)])


@pytest.mark.parametrize("kind", ["negative", "beyond", "huge", "nan", "short splits"])
def test_an_update_checks_for_itself_and_changes_nothing(kind):
    group, bag = _tables(RowWiseAdagrad(0.1), 8), _wrong(kind)
    before = _state(group)
    bags = 3 if bag.splits is None else len(bag.splits) - 1
    with pytest.raises(tf.errors.InvalidArgumentError):
        kernels().update(group, [bag], [tf.ones((bags, 8))])
    assert all(np.array_equal(a, b) for a, b in zip(before, _state(group), strict=True))


def test_who_holds_a_tables_value_keeps_it():
    group = _tables(SGD(1.0), 4)
    held = group.tables[0].rows.read_value()
    before = held.numpy().copy()
    bag = Bag("f", 0, tf.constant([0, 1], tf.int64), None, None, None)
    kernels().update(group, [bag], [tf.ones((2, 4))])
    assert np.array_equal(held.numpy(), before)
    assert np.allclose(group.tables[0].rows.numpy()[:2], before[:2] - 1)
