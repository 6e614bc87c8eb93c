"""Prepared logs as batches: the same rows at every world size, from any batch on, from Parquet and from TFRecord alike;
what is wrong with a file is said with its name and the row's."""

import gzip
import re
import shutil
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.streaming import as_dataset
from embeddings.tfrecord import TFRecordLog
from foundation.errors import UserError
from foundation.tf import tf
from inputs.lanes import LaneOrder
from inputs.parquet import ParquetLog
from inputs.ragged import Ragged, splits_of
from inputs.stream import Stream
from inputs.tfrecord import index_records, masked_crc32c

KINDS = {"row": "id", "item": "id", "history": "ids", "age": "dense", "shares": "weights", "click": "dense"}
GROUP = 40


def table(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, rows)
    splits = splits_of(lengths).astype(np.int32)
    return pa.table(
        {
            "row": np.arange(rows),
            "item": rng.integers(-(2**62), 2**62, rows),
            "history": pa.ListArray.from_arrays(splits, rng.integers(0, 2**62, splits[-1])),
            "age": rng.standard_normal(rows).astype(np.float32),
            "shares": pa.ListArray.from_arrays(splits, rng.random(splits[-1], np.float32)),
            "click": pa.array(rng.integers(0, 2, rows), pa.int64()),
        }
    )


def write_parquet(path, content, group=GROUP):
    pq.write_table(content, path, row_group_size=group)
    return path


def example(row: dict) -> bytes:
    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if name in ("age", "shares"):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        elif isinstance(values[0] if values else 0, bytes):
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else example(record))
    return path


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, column in one.items():
        if isinstance(column, Ragged):
            assert column.values.dtype == other[name].values.dtype
            assert column.row_splits.dtype == other[name].row_splits.dtype == np.int64
            assert np.array_equal(column.values, other[name].values), name
            assert np.array_equal(column.row_splits, other[name].row_splits), name
        else:
            assert column.dtype == other[name].dtype
            assert np.array_equal(column, other[name]), name


def joined(batches):
    """Batches of consecutive rows as one."""
    batches = list(batches)
    whole = {}
    for name in batches[0]:
        parts = [batch[name] for batch in batches]
        if isinstance(parts[0], Ragged):
            lengths = np.concatenate([part.lengths for part in parts])
            whole[name] = Ragged(np.concatenate([part.values for part in parts]), splits_of(lengths))
        else:
            whole[name] = np.concatenate(parts)
    return whole


@pytest.fixture(scope="module")
def content():
    return table(515)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, content):
    """Two Parquet files, the second with a last row group of another size, beside what is no log."""
    path = tmp_path_factory.mktemp("log")
    write_parquet(path / "part-0.parquet", content.slice(0, 200))
    write_parquet(path / "part-1.parquet", content.slice(200))
    (path / "_SUCCESS").touch()
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("records")
    write_records(path / "part-0.tfrecord", content.slice(0, 200).to_pylist())
    write_records(path / "part-1.tfrecord-00001-of-00002", content.slice(200).to_pylist())
    return path


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any),
    batch_size=st.integers(1, 70),
    lanes=st.integers(1, 9),
    shuffle=st.booleans(),
    world_size=st.integers(1, 5),
)
def test_an_epoch_holds_each_row_once_and_ranks_share_each_batch(sizes, batch_size, lanes, shuffle, world_size):
    first = np.concatenate([[0], np.cumsum(sizes)])

    def rows(pieces, order):
        taken = [np.empty(0, np.int64)]
        for piece in pieces:
            permuted = order.row_order(piece.block)
            places = np.arange(piece.start, piece.stop)
            taken.append(first[piece.block] + (places if permuted is None else permuted[places]))
        return np.concatenate(taken)

    order = LaneOrder(np.array(sizes), batch_size, 3, 1, lanes, shuffle)
    batches = [rows(order.pieces(k), order) for k in range(len(order))]
    assert sorted(np.concatenate(batches)) == list(range(sum(sizes)))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    for k, batch in enumerate(batches):
        slices = [rows(order.pieces(k, rank, world_size), order) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(slices), batch)
    if not shuffle and lanes == 1:
        assert np.array_equal(np.concatenate(batches), np.arange(sum(sizes)))


def test_ranks_decode_their_own_lanes():
    order = LaneOrder(np.full(64, 100), 256, seed=0, epoch=0, lanes=8)
    blocks = [{p.block for k in range(len(order)) for p in order.pieces(k, rank, 4)} for rank in range(4)]
    assert sum(map(len, blocks)) == 64
    assert set.union(*blocks) == set(range(64))


def test_what_follows_in_a_lane_is_what_it_comes_to():
    order = LaneOrder(np.full(20, 10), 7, seed=0, epoch=0, lanes=3)
    announced: set = set()
    for k in range(len(order)):
        pieces = order.pieces(k)
        assert k == 0 or {piece.block for piece in pieces} <= announced
        announced |= {piece.block for piece in pieces} | {block for p in pieces for block in p.following[:1]}


def test_an_epoch_of_billions_of_rows_is_dealt_without_overflow():
    order = LaneOrder(np.full(50_000, 100_000), 65_536, seed=0, epoch=0, lanes=16)
    pieces = order.pieces(len(order) - 2)
    assert sum(piece.stop - piece.start for piece in pieces) == 65_536
    assert all(0 <= piece.start < piece.stop <= 100_000 for piece in pieces)


def test_in_the_order_of_the_log_its_columns_come_as_they_are(folder, content):
    whole = joined(Stream(ParquetLog(folder), 64, shuffle=False).iterate(0))
    assert list(whole) == content.column_names
    for name in ("row", "item", "age"):
        assert np.array_equal(whole[name], content.column(name).to_numpy())
    assert [list(whole["history"].row(i)) for i in range(515)] == content.column("history").to_pylist()
    assert whole["click"].dtype == np.int64  # an integer is an id until it is named otherwise


def test_a_batch_within_a_row_group_is_a_view_of_it(folder):
    log = ParquetLog(folder)
    group = log.read(0)
    log.read = lambda block, order=None: group
    batch = Stream(log, 20, shuffle=False).batch(0, 1)
    for name in ("item", "age"):
        assert np.shares_memory(batch[name], group[name])
    assert np.shares_memory(batch["history"].values, group["history"].values)
    assert not group["item"].flags.owndata  # Arrow's own memory


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200), st.integers(0, 3), st.booleans(), st.sampled_from([None, 1, 3]))
def test_parquet_and_tfrecord_of_the_same_rows_give_the_same_batches(
    folder, records, batch_size, epoch, shuffle, lanes
):
    options = {"batch_size": batch_size, "seed": 5, "shuffle": shuffle, "lanes": lanes}
    parquet = Stream(ParquetLog(folder, KINDS), **options)
    tfrecord = Stream(TFRecordLog(records, KINDS, block_records=GROUP), **options)
    assert len(parquet) == len(tfrecord)
    for one, other in zip(parquet.iterate(epoch), tfrecord.iterate(epoch), strict=True):
        assert_equal(one, other)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200), st.integers(0, 3), st.sampled_from([1, 2, 3]), st.data())
def test_ranks_and_resumed_runs_read_the_same_batches(folder, batch_size, epoch, world_size, data):
    stream = Stream(ParquetLog(folder, KINDS), batch_size, seed=1)
    whole = list(stream.iterate(epoch))
    k = data.draw(st.integers(0, len(whole) - 1))
    ranks = [Stream(ParquetLog(folder, KINDS), batch_size, seed=1) for _ in range(world_size)]
    slices = [ranks[rank].iterate(epoch, k, rank, world_size) for rank in range(world_size)]
    for batch, parts in zip(whole[k:], zip(*slices, strict=True), strict=True):
        assert_equal(joined(parts), batch)
    assert_equal(stream.batch(epoch, k), whole[k])
    assert sorted(joined(whole)["row"]) == list(range(515))


def test_shuffled_rows_stay_whole_and_epochs_differ(folder, content):
    stream = Stream(ParquetLog(folder, KINDS), 100, seed=1)
    epochs = [joined(stream.iterate(epoch)) for epoch in (0, 1)]
    assert not np.array_equal(epochs[0]["row"], epochs[1]["row"])
    rows = epochs[0]["row"]
    assert np.array_equal(epochs[0]["item"], content.column("item").to_numpy()[rows])
    histories = content.column("history").to_pylist()
    assert [list(epochs[0]["history"].row(i)) for i in range(515)] == [histories[row] for row in rows]
    assert len(np.unique(rows[:100] // GROUP)) > 4  # a batch mixes many places


def test_resuming_decodes_only_what_the_batch_needs(folder):
    log = ParquetLog(folder, KINDS)
    read, blocks = log.read, []
    log.read = lambda block, order=None: blocks.append(block) or read(block, order)
    Stream(log, 40, shuffle=False).batch(0, 7)
    assert blocks == [7]
    blocks.clear()
    with Stream(log, 40, shuffle=False).iterate(0, k=7) as batches:
        assert next(batches)["row"][0] == 280
    assert blocks
    assert min(blocks) == 7


def test_leaving_early_ends_every_thread(folder):
    with Stream(ParquetLog(folder, KINDS), 10).iterate(0) as batches:
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("headrace")]


def test_a_dataset_holds_tensors_and_ragged_tensors(folder):
    stream = Stream(ParquetLog(folder, KINDS), 100, seed=2)
    dataset = as_dataset(stream, epoch=1, k=4, epochs=2)
    spec = dataset.element_spec
    assert spec["item"] == tf.TensorSpec([None], tf.int64)
    assert spec["history"] == tf.RaggedTensorSpec([None, None], tf.int64, row_splits_dtype=tf.int64)
    assert spec["shares"].dtype == spec["age"].dtype == spec["click"].dtype == tf.float32
    elements = list(dataset)
    assert len(elements) == 2 + 6
    for element, batch in zip(elements, [*stream.iterate(1, 4), *stream.iterate(2)], strict=True):
        assert list(element) == list(KINDS)
        assert np.array_equal(element["row"], batch["row"])
        assert np.array_equal(element["history"].values, batch["history"].values)
        assert np.array_equal(element["history"].row_splits, batch["history"].row_splits)


def test_lists_of_every_layout_and_small_types(tmp_path):
    content = pa.table(
        {
            "small": pa.array([1, 2, 3], pa.int16()),
            "unsigned": pa.array([1, 2**63 - 1, 3], pa.uint64()),
            "fixed": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
            "large": pa.array([[1], [], [2, 3]], pa.large_list(pa.int64())),
            "wide": pa.array([0.5, 1.5, 2.5], pa.float64()),
            "flag": pa.array([True, False, True]),
        }
    )
    log = ParquetLog(write_parquet(tmp_path / "log.parquet", content))
    assert log.columns == dict(zip(content.column_names, ["id", "id", "ids", "ids", "dense", "dense"], strict=True))
    for order in (None, np.array([2, 0, 1])):
        read, rows = log.read(0, order), [0, 1, 2] if order is None else order
        for name, kind in log.columns.items():
            wanted = [content.column(name)[int(row)].as_py() for row in rows]
            column = read[name]
            found = [list(column.row(i)) for i in range(3)] if kind == "ids" else column.tolist()
            assert found == wanted
            values = column.values if kind == "ids" else column
            assert values.dtype == (np.float32 if kind == "dense" else np.int64)


def _parquet(**columns):
    def write(path):
        write_parquet(path / "log.parquet", pa.table(columns), group=2)
        return path

    return write


def _bytes(name, content):
    def write(path):
        (path / name).write_bytes(content)
        return path

    return write


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("write", "columns", "told"),
    [
        (lambda path: path / "none", None, r"none: no such file or folder"),
        (lambda path: path, None, r"no \*\.parquet file in this folder"),
        (lambda path: [], None, r"empty list of files"),
        (_bytes("log.parquet", b""), None, r"log\.parquet: this file is empty"),
        (_bytes("log.parquet", b"id,item\n1,2\n"), None, r"log\.parquet: this file is not whole Parquet"),
        (_parquet(a=pa.array([], pa.int64())), None, r"no row in it"),
        (_parquet(item=[1, 2]), {"itm": "id"}, r"log\.parquet: no column 'itm'; did you mean 'item'\?"),
        (_parquet(item=["x", "y"]), None, r"log\.parquet: item has the type string"),
        (_parquet(item=[1.0, 2.0]), {"item": "id"}, r"log\.parquet: item has the type double: as 'id', an integer"),
        (_parquet(item=[1, 2]), {"item": "ids"}, r"item has the type int64: as 'ids', a list of integers"),
        (_parquet(item=[[1.5]]), {"item": "ids"}, r"item has the type list<.*>: as 'ids', a list of integers"),
        (_parquet(item=[1, 2, 3, None]), None, r"log\.parquet: row 4: item is null: an integer is wanted"),
        (_parquet(item=[[1], [2], None]), None, r"log\.parquet: row 3: item is null: a list of integers"),
        (_parquet(item=[[1], [2], [], [3, None]]), None, r"row 4: item is a list with a null"),
        (_parquet(age=[1.0, 2.0, float("nan")]), None, r"log\.parquet: row 3: age is nan: a finite number"),
        (_parquet(age=[1.0, 1e300]), None, r"row 2: age is inf: a finite number"),
        (_parquet(w=[[1.0], [], [2.0, float("nan")]]), None, r"row 3: w is nan: a finite number"),
        (_parquet(item=pa.array([1, 2**63], pa.uint64())), None, r"row 2: item is 9223372036854775808: an integer of"),
    ],
)
def test_what_is_wrong_with_parquet_is_said(tmp_path, write, columns, told):
    with pytest.raises(UserError, match=told):
        list(Stream(ParquetLog(write(tmp_path), columns), 2).iterate(0))


def test_parquet_cut_short_or_damaged_is_named(folder, tmp_path):
    whole = (folder / "part-0.parquet").read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"cut\.parquet: this file is not whole Parquet"):
        ParquetLog(cut)
    hole = tmp_path / "hole.parquet"
    hole.write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    with pytest.raises(UserError, match=r"hole\.parquet: this file is not whole Parquet"):
        list(Stream(ParquetLog(hole), 10).iterate(0))
    gone = tmp_path / "gone.parquet"
    shutil.copy(folder / "part-0.parquet", gone)
    stream = Stream(ParquetLog(gone), 10)
    gone.unlink()
    with pytest.raises(UserError, match=r"gone\.parquet"):
        stream.batch(0, 0)


def _records(*rows):
    return lambda path: write_records(path / "log.tfrecord", rows)


@pytest.mark.parametrize(
    ("write", "columns", "told"),
    [
        (lambda path: path, None, r"no \*\.tfrecord\* file in this folder"),
        (_bytes("log.tfrecord", b""), None, r"log\.tfrecord: this file is empty"),
        (_bytes("log.tfrecord", b"item,age\n" * 9), None, r"log\.tfrecord: not a TFRecord file"),
        (_bytes("log.tfrecord", gzip.compress(b"x" * 99)), None, r"log\.tfrecord: a compressed file"),
        (_bytes("log.tfrecord", b"short"), None, r"log\.tfrecord: record 1 is cut short"),
        (_records({"item": 1}), {"itm": "id"}, r"log\.tfrecord: no column 'itm'; did you mean 'item'\?"),
        (_records({"item": b"x"}), None, r"log\.tfrecord: item holds bytes"),
        (_records({"age": 1.0}), {"age": "id"}, r"age is stored as float_list: as 'id', int64_list is wanted"),
        (_records(b"\xff\xff no example"), None, r"log\.tfrecord: record 1 is no tf\.train\.Example"),
        (_records({"item": 1}, {"item": 2}, {"age": 2.0}), {"item": "id"}, r"record 3 cannot .* item .*required"),
        (_records({"item": 1}, {"item": [2, 3]}), {"item": "id"}, r"record 2 cannot be read .*item"),
        (_records({"item": 1}, {"item": b"x"}), {"item": "id"}, r"record 2 cannot be read .*item"),
        (_records({"age": 1.0}, {"age": float("nan")}), None, r"log\.tfrecord: row 2: age is nan: a finite number"),
    ],
)
def test_what_is_wrong_with_tfrecord_is_said(tmp_path, write, columns, told):
    with pytest.raises(UserError, match=told):
        list(Stream(TFRecordLog(write(tmp_path), columns), 2).iterate(0))


def test_kinds_of_features_are_seen_in_the_first_records(tmp_path):
    rows = [{"item": 1, "history": [2], "age": 0.5, "shares": []}, {"item": 2, "history": [], "age": 1.5}]
    log = TFRecordLog(write_records(tmp_path / "log.tfrecord", rows))
    assert log.columns == {"item": "id", "history": "ids", "age": "dense", "shares": "weights"}
    batch = Stream(log, 2, shuffle=False).batch(0, 0)
    assert batch["history"].row_splits.tolist() == [0, 1, 1]
    assert batch["shares"].row_splits.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("place", "told"),
    [("length", "record 7 is damaged: its length"), ("data", "record 7 is damaged"), ("end", "record 20 is cut short")],
)
def test_a_damaged_record_is_named(tmp_path, place, told):
    path = write_records(tmp_path / "log.tfrecord", [{"item": number} for number in range(20)])
    block = index_records(path, 1)[6]
    content = bytearray(path.read_bytes())
    if place == "end":
        del content[-3:]
    else:
        content[block.offset + (0 if place == "length" else 13)] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"log\.tfrecord: {told}"):
        list(Stream(TFRecordLog(path, {"item": "id"}, block_records=4), 5).iterate(0))


def test_a_record_cut_within_its_header_is_named(tmp_path):
    path = write_records(tmp_path / "log.tfrecord", [{"item": number} for number in range(3)])
    path.write_bytes(path.read_bytes()[: index_records(path, 1)[2].offset + 5])
    with pytest.raises(UserError, match=r"record 3 is cut short"):
        TFRecordLog(path)


def test_checksums_are_those_of_tfrecord(tmp_path):
    path = write_records(tmp_path / "log.tfrecord", [b"x" * 1234])
    header = np.frombuffer(path.read_bytes()[:12], np.uint8)
    assert masked_crc32c(header[None, :8])[0] == header[8:].copy().view("<u4")[0]


def test_an_error_within_a_dataset_still_names_the_row(tmp_path):
    log = ParquetLog(write_parquet(tmp_path / "log.parquet", pa.table({"item": [1, None]})))
    with pytest.raises(tf.errors.OpError) as raised:
        list(as_dataset(Stream(log, 2)))
    assert re.search(r"log\.parquet: row 2: item is null", str(raised.value))


def test_settings_that_make_no_batch_are_refused(folder):
    log = ParquetLog(folder)
    for options in ({"batch_size": 0}, {"batch_size": 8, "lanes": 0}, {"batch_size": 8, "decoders": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            Stream(log, **options)
    with pytest.raises(IndexError):
        Stream(log, 100).batch(0, 6)
    with pytest.raises(ValueError, match="'idd' is not one of"):
        ParquetLog(folder, {"item": "idd"})
