"""Reading a prepared log: how many rows of a Criteo-shaped one become batches in a second."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pd
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.ids import zipf_ids
from benchmarks.interleaved import Times, interleave
from benchmarks.machine import describe
from benchmarks.report import Report
from embeddings.streaming import as_dataset
from embeddings.tfrecord import TFRecordLog
from foundation.progress import progress
from foundation.tensors import to_tensors
from foundation.tf import tf
from inputs.parquet import ParquetLog
from inputs.ragged import splits_of
from inputs.stream import RAGGED, Kind, Stream

_LABEL = "label"
_IDS, _LISTS, _DENSE = 26, 3, 13
_LONGEST_LIST = 10
_VOCABULARY = 1_000_000
COLUMNS: dict[str, Kind] = {
    **{f"category_{i}": "id" for i in range(_IDS)},
    **{f"history_{i}": "ids" for i in range(_LISTS)},
    **{f"number_{i}": "dense" for i in range(_DENSE)},
    _LABEL: "dense",
}
_DTYPES = {"id": tf.int64, "ids": tf.int64, "dense": tf.float32}
Batches = Callable[[], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True)
class Sizes:
    """records: rows of the log that are written as TFRecord too, which takes Python a while for each. row_group: rows,
    few, so that the log has many times as many groups as a shuffled stream holds open, like a log of days."""

    rows: int = 2_000_000
    records: int = 200_000
    files: int = 4
    row_group: int = 16_384
    batch: int = 8192
    warmup: int = 1
    rounds: int = 7


QUICK = Sizes(rows=40_000, records=4_000, files=2, row_group=1024, batch=1024, rounds=3)


def run(quick: bool) -> Report:
    """Measures an epoch of the log through headrace, through pyarrow alone, and through tf.data as users write it."""
    sizes = QUICK if quick else Sizes()
    table = Table("reader", "rows/s", "spread", "time a row over Arrow's", title="inputs: a log to batches")
    report = Report("inputs", _protocol(sizes, quick), describe(), table)
    report.notes.append("torch's DataLoader was not measured: it has no reader of Parquet of its own")
    with tempfile.TemporaryDirectory() as name:
        parquet, records = Path(name) / "parquet", Path(name) / "tfrecord"
        _write(sizes, parquet, records)
        readers = _readers(sizes, parquet, records)
        rows = {reader: sizes.records if "tfrecord" in reader else sizes.rows for reader in readers}
        _check_equal_work(readers, rows)
        with progress("inputs", (sizes.warmup + sizes.rounds) * len(readers), "epochs") as meter:

            def turn(reader: str) -> Callable[[int], float]:
                def timed(number: int) -> float:
                    seconds = _seconds(readers[reader])
                    meter.advance(note=reader)
                    return seconds

                return timed

            times = interleave({reader: turn(reader) for reader in readers}, sizes.rounds, sizes.warmup)
    _add(report, times, rows)
    return report


def _protocol(sizes: Sizes, quick: bool) -> dict[str, Any]:
    return {
        "row": f"{_IDS} int64 ids, {_LISTS} lists of 0 to {_LONGEST_LIST - 1} int64 ids, {_DENSE + 1} float32",
        "storage": "just written, in the page cache; Parquet with zstd, without dictionaries; TFRecord not compressed",
        "order": "readers take turns, an epoch each, in a random order within each round; medians of seconds a row",
        "arrow": "the floor: pyarrow.dataset to_batches and numpy views, on all cores; no shuffle, no checks",
        "parquet_in_order, parquet": "headrace to numpy, in the log's order and shuffled",
        "parquet_tensors": "headrace shuffled, to tensors in plain iteration",
        "parquet_dataset_in_order, parquet_dataset": "headrace as a tf.data.Dataset, in the log's order and shuffled",
        "from_generator": "tf.data over the same to_batches, prefetched; no shuffle",
        "tfrecord_tfdata": "TFRecordDataset, batch, parallel parse_example, prefetch; no shuffle",
        "tfrecord": "headrace's reader of the same records to numpy, shuffled",
        "quick": quick,
        **asdict(sizes),
    }


def _write(sizes: Sizes, parquet: Path, records: Path) -> None:
    """The log as Parquet, and the first `records` rows as TFRecord, each in `files` files."""
    parquet.mkdir()
    records.mkdir()
    ends = np.linspace(0, sizes.rows, sizes.files + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(ends)):
        content = _rows(int(stop - start), seed=number)
        pq.write_table(
            content,
            parquet / f"part-{number}.parquet",
            row_group_size=sizes.row_group,
            compression="zstd",
            use_dictionary=False,
        )
        with tf.io.TFRecordWriter(str(records / f"part-{number}.tfrecord")) as writer:
            for row in content.slice(0, sizes.records // sizes.files).to_pylist():
                writer.write(_example(row))


def _rows(rows: int, seed: int) -> pa.Table:
    generator = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        if kind == "id":
            columns[name] = zipf_ids(generator, (rows,), _VOCABULARY, 1.05)
        elif kind == "dense":
            columns[name] = generator.standard_normal(rows, np.float32)
        else:
            splits = splits_of(generator.integers(0, _LONGEST_LIST, rows))
            values = zipf_ids(generator, (int(splits[-1]),), _VOCABULARY, 1.05)
            columns[name] = pa.ListArray.from_arrays(splits.astype(np.int32), values)
    columns[_LABEL] = generator.integers(0, 2, rows).astype(np.float32)
    return pa.table(columns)


def _example(row: Mapping[str, Any]) -> bytes:
    features = {}
    for name, value in row.items():
        if COLUMNS[name] == "dense":
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        else:
            values = value if isinstance(value, list) else [value]
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _readers(sizes: Sizes, parquet: Path, records: Path) -> dict[str, Batches]:
    in_order = Stream(ParquetLog(parquet, COLUMNS), sizes.batch, shuffle=False)
    shuffled = Stream(ParquetLog(parquet, COLUMNS), sizes.batch)
    of_records = Stream(TFRecordLog(records, COLUMNS), sizes.batch)
    # built once, as in a training: what is timed is their epochs
    dataset, dataset_in_order = as_dataset(shuffled), as_dataset(in_order)
    generated, of_tfdata = _from_generator(parquet, sizes.batch), _tfrecord_tfdata(records, sizes.batch)
    return {
        "arrow": lambda: _arrow(parquet, sizes.batch),
        "parquet_in_order": lambda: in_order.iterate(0),
        "parquet": lambda: shuffled.iterate(0),
        "parquet_tensors": lambda: map(to_tensors, shuffled.iterate(0)),
        "parquet_dataset_in_order": lambda: dataset_in_order,
        "parquet_dataset": lambda: dataset,
        "from_generator": lambda: generated,
        "tfrecord_tfdata": lambda: of_tfdata,
        "tfrecord": lambda: of_records.iterate(0),
    }


def _arrow(folder: Path, batch_size: int) -> Iterator[dict[str, Any]]:
    """What pyarrow gives without copies; a list column as (values, offsets)."""
    for batch in pd.dataset(folder).to_batches(batch_size=batch_size):
        columns: dict[str, Any] = {}
        for name, kind in COLUMNS.items():
            column = batch.column(name)
            if kind in RAGGED:
                offsets = column.offsets.to_numpy()
                columns[name] = column.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]
            else:
                columns[name] = column.to_numpy()
        yield columns


def _from_generator(folder: Path, batch_size: int) -> tf.data.Dataset:
    """As a user would write it who knows to keep away from Python lists."""

    def batches() -> Iterator[dict[str, Any]]:
        for batch in _arrow(folder, batch_size):
            for name, kind in COLUMNS.items():
                if kind in RAGGED:
                    values, offsets = batch[name]
                    batch[name] = tf.RaggedTensor.from_row_splits(values, offsets.astype(np.int64), validate=False)
            yield batch

    signature = {
        name: tf.RaggedTensorSpec([None, None], tf.int64) if kind in RAGGED else tf.TensorSpec([None], _DTYPES[kind])
        for name, kind in COLUMNS.items()
    }
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(tf.data.AUTOTUNE)


def _tfrecord_tfdata(folder: Path, batch_size: int) -> tf.data.Dataset:
    features = {
        name: tf.io.RaggedFeature(_DTYPES[kind], row_splits_dtype=tf.int64)
        if kind in RAGGED
        else tf.io.FixedLenFeature([], _DTYPES[kind])
        for name, kind in COLUMNS.items()
    }
    files = sorted(str(file) for file in folder.iterdir())
    return (
        tf.data.TFRecordDataset(files)  # with num_parallel_reads it is slower on few cores
        .batch(batch_size)
        .map(lambda serialized: tf.io.parse_example(serialized, features), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _seconds(batches: Batches) -> float:
    start = time.perf_counter()
    for _ in batches():
        pass
    return time.perf_counter() - start


def _check_equal_work(readers: Mapping[str, Batches], rows: Mapping[str, int]) -> None:
    """A ratio means something only if both read the same rows: sums over an epoch agree with what else read as many."""
    sums: dict[int, tuple[str, list[int]]] = {}
    for reader, batches in readers.items():
        found = [0, 0, 0]
        for batch in batches():
            history = batch["history_0"]
            values = history[0] if isinstance(history, tuple) else history.values
            found[0] += len(batch[_LABEL])
            found[1] += int(np.sum(batch["category_0"]))
            found[2] += int(np.sum(values))
        first, wanted = sums.setdefault(rows[reader], (reader, found))
        if found != wanted:
            raise AssertionError(f"{reader} and {first} read different rows: {found}, {wanted}")


def _add(report: Report, times: Mapping[str, Times], rows: Mapping[str, int]) -> None:
    per_row = {reader: taken.median / rows[reader] for reader, taken in times.items()}
    for reader, seconds in per_row.items():
        report.table.add_row(
            reader, f"{1 / seconds:,.0f}", f"{times[reader].spread:.0%}", f"{seconds / per_row['arrow']:.2f}"
        )
        report.metrics[f"{reader}_rows_per_s"] = 1 / seconds
        report.metrics[f"{reader}_spread"] = times[reader].spread
    to_tensor = ("parquet_tensors", "parquet_dataset_in_order", "parquet_dataset")
    for reader in ("parquet_in_order", "parquet", *to_tensor):
        report.metrics[f"{reader}_time_vs_arrow_floor"] = per_row[reader] / per_row["arrow"]
    for reader in to_tensor:
        report.metrics[f"{reader}_rows_per_s_vs_from_generator"] = per_row["from_generator"] / per_row[reader]
        report.metrics[f"{reader}_rows_per_s_vs_tfrecord_tfdata"] = per_row["tfrecord_tfdata"] / per_row[reader]
    report.metrics["parquet_rows_per_s_vs_tfrecord_tfdata"] = per_row["tfrecord_tfdata"] / per_row["parquet"]
    report.metrics["tfrecord_rows_per_s_vs_tfrecord_tfdata"] = per_row["tfrecord_tfdata"] / per_row["tfrecord"]
