"""The compiled id table does what its twin does: rows, admissions, evictions, state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings import (
    FrequencyAdmission,
    LeastFrequentlyUsed,
    LeastRecentlyUsed,
    ProbabilityAdmission,
    RowWiseAdagrad,
    TableConfig,
    TimeToLive,
)
from embeddings.kernels import compiled, kernels, reference
from embeddings.tables.identity import IdPolicy
from foundation.tf import tf

pytestmark = pytest.mark.skipif(not compiled(), reason="no compiler here: the twin does the work")

POLICIES = [
    {},
    {"admission": FrequencyAdmission(2, 64)},
    {"admission": FrequencyAdmission(3, 1 << 12)},
    {"admission": ProbabilityAdmission(0.4)},
    {"eviction": TimeToLive(3)},
    {"eviction": TimeToLive(20)},
    {"capacity": 10},
    {"capacity": 10, "eviction": LeastRecentlyUsed()},
    {"capacity": 10, "eviction": LeastFrequentlyUsed()},
    {"capacity": 150, "eviction": LeastRecentlyUsed(), "admission": FrequencyAdmission(2, 256)},
    {"capacity": 10, "eviction": TimeToLive(2), "admission": ProbabilityAdmission(0.8)},
]
IDS = st.integers(-20, 60) | st.sampled_from([-(2**63), 2**63 - 1, 2**40])


class _Held:
    """An id table of either kind with the variables it writes."""

    def __init__(self, which, config):
        self.config, self.table = config, which.id_table(IdPolicy.of(config))
        self.identities = tf.Variable(tf.zeros([1], tf.int64), shape=[None])
        self.rows = tf.Variable(tf.zeros([1, 3]), shape=[None, 3])
        self.slot = tf.Variable(tf.zeros([1]), shape=[None])

    def step(self, features, occurrences=()):
        features, occurrences = ([tf.constant(each, tf.int64) for each in values] for values in (features, occurrences))
        variables = (self.identities, self.rows, [(self.slot, 0.25)])
        found = self.table.find_or_insert(features, *variables, self.config.scale, occurrences)
        return [rows.numpy() for rows in found]

    def find(self, ids):
        return self.table.find([tf.constant(ids, tf.int64)])[0].numpy()

    def used(self):
        """The variables, of the rows in use."""
        rows = self.table.state()["rows"]
        return [tf.gather(variable, rows).numpy() for variable in (self.identities, self.rows, self.slot)]


def _assert_equal(ours, twins):
    assert ours.keys() == twins.keys()
    for name in ours:
        assert np.array_equal(ours[name], twins[name]), name


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.lists(IDS, max_size=30), min_size=2, max_size=2), min_size=1, max_size=12),
    st.sampled_from(POLICIES),
    st.integers(0, 5),
)
def test_every_step_gives_the_twins_rows(steps, policies, seed):
    config = TableConfig("t", None, 3, RowWiseAdagrad(), seed=seed, **policies)
    ours, twin = (_Held(which, config) for which in (kernels(), reference))
    for features in steps:
        for mine, theirs in zip(ours.step(features), twin.step(features), strict=True):
            assert np.array_equal(mine, theirs)
        assert np.array_equal(ours.table.counts(), twin.table.counts())
    _assert_equal(ours.table.state(), twin.table.state())
    for mine, theirs in zip(ours.used(), twin.used(), strict=True):
        assert np.array_equal(mine, theirs)
    seen = np.unique([i for features in steps for ids in features for i in ids]).astype(np.int64)
    assert np.array_equal(ours.find([*seen, 999]), twin.find([*seen, 999]))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(IDS, max_size=30), min_size=1, max_size=8),
    st.lists(st.lists(IDS, max_size=30), min_size=1, max_size=4),
    st.sampled_from(POLICIES),
)
def test_either_goes_on_from_the_others_state(before, after, policies):
    config = TableConfig("t", None, 3, RowWiseAdagrad(), **policies)
    ours, twin = (_Held(which, config) for which in (kernels(), reference))
    for ids in before:
        ours.step([ids])
        twin.step([ids])
    crossed, other = (_Held(which, config) for which in (kernels(), reference))
    crossed.table.restore(twin.table.state())
    other.table.restore(ours.table.state())
    for ids in after:
        ours.step([ids])
        assert np.array_equal(*(held.step([ids])[0] for held in (crossed, other)))
    for held in (crossed, other):
        mine, theirs = ours.table.state(), held.table.state()
        for name in mine.keys() - {"rows"}:  # rows are numbered anew
            assert np.array_equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("eviction", [None, LeastRecentlyUsed()])
def test_a_state_larger_than_the_capacity_shrinks_or_rejects_in_both(eviction):
    large = _Held(kernels(), TableConfig("t", None, 3, capacity=1 << 20))
    large.step([range(900)])
    config = TableConfig("t", None, 3, capacity=300, eviction=eviction)
    ours, twin = (_Held(which, config) for which in (kernels(), reference))
    for held in (ours, twin):
        held.table.restore(large.table.state())
        held.identities.assign(tf.concat([[0], tf.range(900, dtype=tf.int64)], 0))
        held.rows.assign(tf.zeros([901, 3]))
        held.slot.assign(tf.zeros([901]))
    for step in range(4):
        ids = range(1000 + 40 * step, 1040 + 40 * step)
        assert np.array_equal(*(held.step([ids])[0] for held in (ours, twin)))
    _assert_equal(ours.table.state(), twin.table.state())
    rows = int(ours.table.counts()[1])
    assert rows <= 300 if eviction else rows == 900


def test_many_ids_and_many_steps_as_the_twin():
    rng = np.random.default_rng(0)
    config = TableConfig("t", None, 3, capacity=400, eviction=LeastRecentlyUsed(), admission=FrequencyAdmission(2))
    ours, twin = (_Held(which, config) for which in (kernels(), reference))
    for _ in range(12):
        features = [rng.zipf(1.2, size) * 7919 for size in (3000, 17, 0)]
        for mine, theirs in zip(ours.step(features), twin.step(features), strict=True):
            assert np.array_equal(mine, theirs)
    _assert_equal(ours.table.state(), twin.table.state())
    assert ours.table.counts()[3] > 0, "some were evicted"


@pytest.mark.parametrize("which", [kernels(), reference], ids=["kernel", "twin"])
@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(IDS, max_size=30), min_size=1, max_size=8), st.sampled_from(POLICIES))
def test_an_id_told_once_with_how_often_it_came_is_as_good_as_each_time(which, steps, policies):
    config = TableConfig("t", None, 3, RowWiseAdagrad(), **policies)
    each_time, once = _Held(which, config), _Held(which, config)
    for ids in steps:
        distinct = list(dict.fromkeys(ids))
        rows = dict(zip(distinct, once.step([distinct], [[ids.count(i) for i in distinct]])[0], strict=True))
        assert each_time.step([ids])[0].tolist() == [rows[i] for i in ids]
    _assert_equal(*({name: np.array(v) for name, v in held.table.state().items()} for held in (each_time, once)))
