import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs.simulate.streams import generator, scattered_ids, uniforms


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**40), st.integers(1, 9), st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_pieces_of_a_stream_are_the_whole(seed, width, pieces):
    whole = uniforms(seed, "a", 0, sum(pieces), width)
    edges = np.concatenate([[0], np.cumsum(pieces)])
    parts = [uniforms(seed, "a", int(first), rows, width) for first, rows in zip(edges[:-1], pieces, strict=True)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_streams_differ_by_seed_and_purpose_and_are_uniform():
    base = uniforms(0, "a", 0, 10_000, 3)
    assert base.min() >= 0
    assert base.max() < 1
    assert abs(base.mean() - 0.5) < 0.01
    assert abs(base.var() - 1 / 12) < 0.005
    for other in (uniforms(1, "a", 0, 10_000, 3), uniforms(0, "b", 0, 10_000, 3)):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.03
    assert generator(0, "a").random() != generator(0, "b").random()


def test_ids_are_distinct_and_say_nothing_of_the_order():
    ids = scattered_ids(3, "items", 200_000)
    assert ids.dtype == np.int64
    assert len(np.unique(ids)) == len(ids)
    assert ids.min() >= 0
    assert ids.max() < 2**40
    assert abs(np.corrcoef(ids, np.arange(len(ids)))[0, 1]) < 0.01
    assert abs(np.corrcoef(ids[1:], ids[:-1])[0, 1]) < 0.01
