"""Blocks of rows between streams and ranks, and what is made of them: the kernels as their twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.kernels import compiled, kernels, reference
from embeddings.kernels.group import Bag
from embeddings.kernels.streams import AS_THEY_ARE, JOINS, Numbering, Own, Stream
from foundation.tf import tf

WHICH = {"kernel": kernels(), "twin": reference}
both = pytest.mark.parametrize("which", WHICH)
WIRES = st.sampled_from([tf.float32, tf.bfloat16, tf.float16])


def _int64(values):
    return tf.constant(np.array(values, np.int64))


@st.composite
def layouts(draw):
    """Tables' columns and distinct ids cut into streams as shardings cut them: (dims, counts, streams, starts, sizes,
    which are local)."""
    ranks, tables = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dims, counts, streams, starts, sizes, local = [], [], [], [], [], set()
    for table in range(tables):
        kind = draw(st.sampled_from(["rows", "columns", "everywhere", "hot"]))
        dim, count = 2 * draw(st.integers(1, 9)), draw(st.integers(0, 12))
        dims.append(dim)
        counts.append(count)
        hot = count // 3 if kind == "hot" else 0
        cuts = np.sort([0, *rng.integers(0, count - hot + 1, ranks - 1), count - hot])
        if kind in ("rows", "hot"):
            streams.append(Stream(table, 0, dim))
            starts.append(cuts[:-1])
            sizes.append(np.diff(cuts))
        if kind in ("everywhere", "hot"):
            local.add(len(streams))
            streams.append(Stream(table, 0, dim))
            starts.append(np.full(ranks, count - hot if kind == "hot" else 0))
            sizes.append(np.full(ranks, hot if kind == "hot" else count))
        if kind == "columns":
            middle = 2 * (dim // 4)
            for first, last in ((0, middle), (middle, dim)):
                if last > first:
                    streams.append(Stream(table, first, last - first))
                    starts.append(np.zeros(ranks))
                    sizes.append(np.where(np.arange(ranks) == rng.integers(ranks), count, 0))
    return dims, counts, streams, np.array(starts, np.int64), np.array(sizes, np.int64), local


def _packed(which, tables, layout, wire):
    dims, _, streams, starts, sizes, _ = layout
    assert all(dim % 2 == 0 for dim in dims)
    return which.pack(tables, [s.table for s in streams], streams, _int64(starts), _int64(sizes), 2, wire)


@settings(deadline=None, max_examples=60)
@given(layouts(), WIRES, st.integers(0, 2**31))
def test_packed_rows_are_in_the_order_of_ranks_and_come_out_by_stream(layout, wire, seed):
    dims, counts, streams, starts, sizes, _ = layout
    rng = np.random.default_rng(seed)
    tables = [rng.normal(size=(count, dim)).astype(np.float32) for count, dim in zip(counts, dims, strict=True)]
    wanted = [
        tables[stream.table][starts[s, r] : starts[s, r] + sizes[s, r], stream.first_column :][:, : stream.width]
        for r in range(sizes.shape[1])
        for s, stream in enumerate(streams)
    ]
    flat = np.concatenate([np.zeros(0, np.float32), *(rows.ravel() for rows in wanted)])
    rounded = tf.cast(flat, wire).numpy()
    for which in WHICH.values():
        payload = _packed(which, [tf.constant(table) for table in tables], layout, wire)
        assert payload.dtype == wire
        assert payload.shape[1] == 2
        assert np.array_equal(payload.numpy().ravel(), rounded)
        pieces = which.unpack(payload, streams, _int64(sizes))
        for s, piece in enumerate(pieces):
            blocks = [wanted[r * len(streams) + s] for r in range(sizes.shape[1])]
            assert piece.dtype == tf.float32
            assert np.array_equal(piece, tf.cast(tf.cast(np.concatenate(blocks), wire), tf.float32))


@settings(deadline=None, max_examples=60)
@given(layouts(), WIRES, st.integers(0, 2**31))
def test_what_came_is_summed_by_row_and_a_ranks_own_need_not_travel(layout, wire, seed):
    dims, counts, streams, starts, sizes, copies = layout
    rng = np.random.default_rng(seed)
    tables = [tf.constant(rng.normal(size=shape), tf.float32) for shape in zip(counts, dims, strict=True)]
    rank = int(rng.integers(sizes.shape[1]))
    stays = [s not in copies for s in range(len(streams))]
    others = sizes.copy()
    others[stays, rank] = 0
    payload = _packed(reference, tables, (dims, counts, streams, starts, others, ()), wire)
    own = Own(
        rank, tables, [t.table if s else -1 for t, s in zip(streams, stays, strict=True)], _int64(starts[:, rank])
    )
    lengths = [rng.integers(1, 4, size.sum()) if s % 2 else np.ones(size.sum(), int) for s, size in enumerate(sizes)]
    rows = [rng.integers(0, 6, of_stream.sum()) for of_stream in lengths]
    splits = [_int64(np.cumsum([0, *of_stream])) if s % 2 else None for s, of_stream in enumerate(lengths)]
    results = [
        which.merge(list(map(_int64, rows)), splits, payload, streams, _int64(sizes), own) for which in WHICH.values()
    ]
    whole = reference.unpack(_packed(reference, tables, layout, wire), streams, _int64(sizes))
    for s, (stream, came, size) in enumerate(zip(streams, whole, sizes, strict=True)):
        exact = came.numpy()
        if stays[s]:  # not rounded
            mine = tables[stream.table].numpy()[starts[s, rank] :, stream.first_column :][: size[rank], : stream.width]
            exact[size[:rank].sum() :][: size[rank]] = mine
        exact = np.repeat(exact, lengths[s], axis=0)
        for distinct, sums in results:
            assert sorted(distinct[s].numpy()) == sorted(set(rows[s]))
            wanted = np.array([exact[rows[s] == row].sum(0) for row in distinct[s].numpy()])
            np.testing.assert_allclose(sums[s], wanted.reshape(-1, stream.width), rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize(
    ("start", "size", "rows"), [(2, 2, 2), (-1, 1, 1), (4, 1, 1), (0, 2, 3)], ids=["behind", "before", "beyond", "more"]
)
def test_rows_whose_gradients_are_not_there_are_refused(which, start, size, rows):
    own = Own(0, [tf.zeros([3, 2])], [0], _int64([start]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        WHICH[which].merge([_int64(range(rows))], [None], tf.zeros([0, 2]), [Stream(0, 0, 2)], _int64([[size]]), own)


@both
@pytest.mark.parametrize("splits", [[0, 1, 2], [0, 2, 1, 3], [1, 2, 3, 3], [0, 1, 3]])
def test_rows_that_gradients_do_not_cover_are_refused(which, splits):
    own, streams = Own(0, [tf.zeros([3, 2])], [0], _int64([0])), [Stream(0, 0, 2)]
    merge = WHICH[which].merge
    assert merge([_int64(range(3))], [_int64([0, 0, 2, 3])], tf.zeros([0, 2]), streams, _int64([[3]]), own)
    with pytest.raises(tf.errors.InvalidArgumentError):
        merge([_int64(range(3))], [_int64(splits)], tf.zeros([0, 2]), streams, _int64([[3]]), own)


@settings(deadline=None, max_examples=30)
@given(layouts(), st.sampled_from([tf.bfloat16, tf.float16]), st.integers(0, 2**31))
def test_gradients_are_rounded_alike_for_whoever_is_sent_them(layout, wire, seed):
    dims, counts, streams, starts, sizes, _ = layout
    rng = np.random.default_rng(seed)
    tables = [tf.constant(rng.normal(size=shape) * 1e-3, tf.float32) for shape in zip(counts, dims, strict=True)]
    arguments = tables, [stream.table for stream in streams], streams, _int64(starts), _int64(sizes), 2, wire
    payloads = [which.pack(*arguments, stochastic=True) for which in WHICH.values()]
    assert np.array_equal(*(tf.bitcast(payload, tf.uint16) for payload in payloads))
    exact = WHICH["twin"].pack(*arguments[:-1], tf.float32).numpy()
    assert np.abs(tf.cast(payloads[0], tf.float32) - exact).max(initial=0) <= 2.0**-7 * np.abs(exact).max(initial=0)
    pieces = WHICH["kernel"].unpack(payloads[0], streams, _int64(sizes))
    for stream, piece, start, size in zip(streams, pieces, starts, sizes, strict=True):
        seen = {}
        places = np.concatenate([np.arange(s, s + n) for s, n in zip(start, size, strict=True)])
        for place, row in zip(places, piece.numpy(), strict=True):
            assert np.array_equal(seen.setdefault(place, row), row), stream


@both
def test_rounded_gradients_are_right_on_average(which):
    rng = np.random.default_rng(0)
    values = np.full((4000, 2), 1.0 + 1 / 1024, np.float32)  # an eighth of bfloat16's step above 1
    values[:, 1] = rng.normal(size=4000)
    streams, block = [Stream(0, 0, 2)], _int64([[4000]])
    payload = WHICH[which].pack(
        [tf.constant(values)], [0], streams, _int64([[0]]), block, 2, tf.bfloat16, stochastic=True
    )
    mean = np.mean(tf.cast(payload, tf.float32)[:, 0])
    assert abs(mean - values[0, 0]) < 5 * 2.0**-7 * np.sqrt(1 / 8 * 7 / 8 / 4000)
    again = WHICH[which].pack(
        [tf.constant(values + np.float32(2.0**-20))],
        [0],
        streams,
        _int64([[0]]),
        block,
        2,
        tf.bfloat16,
        stochastic=True,
    )
    assert not np.array_equal(tf.cast(payload, tf.float32)[:, 0], tf.cast(again, tf.float32)[:, 0]), "other draws"


@both
def test_ids_travel_as_they_are(which):
    ids = tf.constant([[5, 1], [2**62, 2], [-3, 1]], tf.int64)
    streams = [Stream(0, 0, 2)]
    payload = WHICH[which].pack([ids], [0], streams, _int64([[1, 0]]), _int64([[2, 1]]), 2, tf.int64)
    assert np.array_equal(payload, [[2**62, 2], [-3, 1], [5, 1]])
    assert np.array_equal(WHICH[which].unpack(payload, streams, _int64([[1, 2]]))[0], payload)


@both
@pytest.mark.parametrize(("start", "size", "width"), [(2, 2, 2), (4, 1, 2), (0, 1, 4)])
def test_rows_and_columns_that_are_not_there_are_refused(which, start, size, width):
    with pytest.raises(tf.errors.InvalidArgumentError):
        WHICH[which].pack(
            [tf.zeros([3, 2])], [0], [Stream(0, 0, width)], _int64([[start]]), _int64([[size]]), 2, tf.float32
        )


@both
def test_a_stream_without_rows_here_sends_none(which):
    arguments = [tf.zeros([0, 2])], [-1], [Stream(0, 0, 2)], _int64([[0, 0]])
    assert WHICH[which].pack(*arguments, _int64([[0, 0]]), 2, tf.float32).shape == [0, 2]
    with pytest.raises(tf.errors.InvalidArgumentError):
        WHICH[which].pack(*arguments, _int64([[0, 1]]), 2, tf.float32)


@both
@pytest.mark.parametrize("sizes", [[[1, 1]], [[3, 1]]])
def test_sizes_that_do_not_cover_what_came_are_refused(which, sizes):
    message = "sizes do not cover what was received"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        WHICH[which].unpack(tf.zeros([3, 2]), [Stream(0, 0, 2)], _int64(sizes))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        WHICH[which].arrived_ids(tf.zeros([3, 1], tf.int64), _int64(sizes), [AS_THEY_ARE])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=3, max_size=3), st.booleans(), st.integers(0, 99))
def test_ids_that_came_become_rows(counts, counted, seed):
    rng = np.random.default_rng(seed)
    known = np.unique(rng.integers(0, 200, 40))
    numberings = [AS_THEY_ARE, Numbering("buckets", rng.integers(0, 90, 8)), Numbering("places", known)]
    sizes = np.array([rng.multinomial(count, [0.5, 0.5]) for count in counts])
    blocks = [
        rng.choice(known, sizes[s, r]) if s == 2 else rng.integers(0, 200, sizes[s, r])
        for r in range(2)
        for s in range(3)
    ]
    received = np.stack([np.concatenate(blocks), rng.integers(1, 9, sizes.sum())], 1)[:, : 1 + counted]
    wanted = [np.concatenate([blocks[s], blocks[3 + s]]).astype(np.int64) for s in range(3)]
    wanted[1] = numberings[1].known[wanted[1] % 8] + wanted[1] // 8
    wanted[2] = np.searchsorted(known, wanted[2])
    results = [which.arrived_ids(_int64(received), _int64(sizes), numberings) for which in WHICH.values()]
    for rows, came, splits in results:
        assert splits == [None] * 3
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(rows, wanted, strict=True))
        assert [len(each) for each in came] == [count if counted else 0 for count in counts]
        assert all(np.array_equal(a, b) for a, b in zip(came, results[0][1], strict=True))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_ids_that_are_asked_for_together_come_as_bags_of_rows(ranks, counted, seed):
    rng = np.random.default_rng(seed)
    known = rng.integers(0, 90, 8)
    numberings = [Numbering("buckets", known, joins=True), AS_THEY_ARE, Numbering("ids", known, joins=True)]
    requests = [[rng.integers(1, 5, rng.integers(0, 6)) for _ in range(3)] for _ in range(ranks)]
    sizes = np.array(
        [[requests[r][s].sum() if s != 1 else len(requests[r][1]) for r in range(ranks)] for s in range(3)]
    )
    blocks = [[rng.integers(0, 200, sizes[s, r]) for s in range(3)] for r in range(ranks)]
    marked = []
    for r in range(ranks):
        for s in range(3):
            begins = np.zeros(sizes[s, r], bool)
            begins[np.cumsum([0, *requests[r][s]])[:-1] if s != 1 else slice(None)] = True
            marked.append(np.where(begins, blocks[r][s], blocks[r][s] | JOINS))
    received = np.stack([np.concatenate(marked), np.ones(sizes.sum(), np.int64)], 1)[:, : 1 + counted]
    for which in WHICH.values():
        rows, came, splits = which.arrived_ids(_int64(received), _int64(sizes), numberings)
        wanted = [np.concatenate([blocks[r][s] for r in range(ranks)]) for s in range(3)]
        wanted[0] = known[wanted[0] % 8] + wanted[0] // 8
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(rows, wanted, strict=True))
        assert [len(each) for each in came] == [size.sum() if counted else 0 for size in sizes]
        assert splits[1] is None
        for s in (0, 2):
            assert np.array_equal(splits[s], np.cumsum([0, *np.concatenate([requests[r][s] for r in range(ranks)])]))


@both
def test_an_id_that_is_not_held_is_refused(which):
    with pytest.raises(tf.errors.InvalidArgumentError):
        WHICH[which].arrived_ids(_int64([[7]]), _int64([[1]]), [Numbering("places", np.array([3, 9]))])


@st.composite
def bags_of(draw, counts):
    """Bags of places among the tables' distinct ids."""
    chosen = [table for table, count in enumerate(counts) if count]
    bags = []
    for number in range(draw(st.integers(1, 4))):
        combiner = draw(st.sampled_from([None, "sum", "mean", "sqrtn"]))
        table = draw(st.sampled_from(chosen or [0]))
        place = st.integers(0, counts[table] - 1) if chosen else st.nothing()
        most = (1 if combiner is None else 5) if chosen else 0
        rows = draw(st.lists(st.lists(place, min_size=min(most, combiner is None), max_size=most), max_size=9))
        flat = [identifier for row in rows for identifier in row]
        splits = _int64(np.cumsum([0, *map(len, rows)])) if combiner else None
        weights = None
        if combiner and draw(st.booleans()):
            weights = tf.constant(draw(st.lists(st.floats(0.5, 2, width=32), min_size=len(flat), max_size=len(flat))))
            weights = tf.cast(weights, tf.float32)
        bags.append(Bag(f"f{number}", table, _int64(flat), splits, weights, combiner))
    return bags


@st.composite
def layouts_and_bags(draw):
    layout = draw(layouts())
    return layout, draw(bags_of(layout[1]))


@pytest.mark.skipif(not compiled(), reason="no compiler here: the twin does the work")
@settings(deadline=None, max_examples=80)
@given(layouts_and_bags(), WIRES, st.integers(0, 2**31))
def test_bags_are_pooled_where_vectors_lie(chosen, wire, seed):
    layout, bags = chosen
    dims, counts, streams, starts, sizes, local = layout
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(sizes.shape[1]))
    came = sizes * np.array([[s not in local] for s in range(len(streams))])
    came[:, rank] = 0
    numbers = sum(stream.width * count for stream, count in zip(streams, came.sum(1), strict=True))
    received = tf.cast(tf.constant(rng.normal(size=(numbers // 2, 2)), tf.float32), wire)
    here = [s for s in range(len(streams)) if s in local or sizes[s, rank]]
    own = {s: tf.constant(rng.normal(size=(sizes[s, rank], streams[s].width)), tf.float32) for s in here}
    outputs = [
        which.pool(received, own, rank, streams, _int64(starts), _int64(came), dims, bags) for which in WHICH.values()
    ]
    for mine, theirs, bag in zip(*outputs, bags, strict=True):
        assert mine.shape == theirs.shape
        assert mine.shape[1] == dims[bag.table]
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    gradients = [tf.constant(rng.normal(size=output.shape), tf.float32) for output in outputs[0]]
    ours, twins = (which.sums(bags, gradients, _int64(counts), dims) for which in WHICH.values())
    for mine, theirs, count, dim in zip(ours, twins, counts, dims, strict=True):
        assert mine.shape == (count, dim)
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def _pooled(which, bag, received=None):
    vectors = tf.ones([3, 2]) if received is None else received
    return WHICH[which].pool(vectors, {}, 0, [Stream(0, 0, 2)], _int64([[0, 2]]), _int64([[2, 1]]), [2], [bag])


@both
@pytest.mark.parametrize(
    ("bag", "message"),
    [
        (Bag("video", 0, _int64([0, 3]), None, None, None), "feature video: ids outside its vocabulary"),
        (Bag("video", 0, _int64([-1]), None, None, None), "feature video: ids outside its vocabulary"),
        (Bag("video", 0, _int64([0]), _int64([0, 2]), None, "sum"), "feature video: row_splits must rise from 0"),
        (Bag("video", 0, _int64([0]), _int64([0, 1]), tf.constant([np.nan]), "sum"), "weights must be finite"),
    ],
)
def test_bags_that_make_no_sense_are_refused(which, bag, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        _pooled(which, bag)
    bags = 2 if bag.splits is None else 1
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        WHICH[which].sums([bag], [tf.ones([bags if len(bag.ids) == bags else 1, 2])], _int64([3]), [2])


@both
def test_vectors_that_are_not_those_asked_for_are_refused(which):
    with pytest.raises(tf.errors.InvalidArgumentError, match="sizes do not cover what was received"):
        _pooled(which, Bag("video", 0, _int64([0]), None, None, None), tf.ones([4, 2]))
