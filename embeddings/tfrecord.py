"""TFRecord files of tf.train.Example as a log of an `inputs.stream.Stream`: TensorFlow checks and decodes the records,
and `inputs` does without TensorFlow."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError, first_line
from foundation.tf import tf
from inputs.features import Inputs
from inputs.ragged import Ragged
from inputs.stream import RAGGED, Columns, Kind, RowOrder, log_files, need_column, need_finite
from inputs.tfrecord import RecordBlock, index_records

BLOCK_RECORDS = 8192
SAMPLE = 1000  # records at the start of the log that show which features there are
_BUFFER = 1 << 20
_STORED: dict[Kind, tuple[str, ...]] = {
    "id": ("int64_list",),
    "ids": ("int64_list",),
    "dense": ("float_list", "int64_list"),
    "weights": ("float_list",),
}


class TFRecordLog:
    """Records of TFRecord files, in blocks of `block_records`.

    columns: the features read, and their kinds. sizes: [blocks] int64 records. A record without an "ids" or "weights"
    feature has an empty list there; "id" and "dense" must be in each.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        columns: Columns | None = None,
        block_records: int = BLOCK_RECORDS,
    ) -> None:
        """path: a file, a folder of `*.tfrecord*` files, or a list of files. columns: None reads every feature of the
        first records, as the kind they show: a list where one of them has not exactly one value.

        Raises:
          UserError: a file is missing, empty, compressed or cut short; a column is not among the first records'
            features, or has values of another type.
        """
        files = log_files(path, "*.tfrecord*")
        self._blocks = [block for file in files for block in index_records(file, block_records)]
        self.sizes = np.array([block.records for block in self._blocks], np.int64)
        seen = _features_of(self._blocks[0])
        self.columns: Columns = _inferred(files[0], seen) if columns is None else dict(columns)
        for name, kind in self.columns.items():
            _need_feature(files[0], name, kind, seen)
        self._features = {name: _parsed_as(kind, seen[name]) for name, kind in self.columns.items()}

    def read(self, block: int, order: RowOrder = None) -> Inputs:
        """A block's columns by name.

        Raises:
          UserError: a record is damaged, is no tf.train.Example, lacks a column, or a value is not finite.
        """
        where = self._blocks[block]
        serialized = _records(where)
        try:
            parsed = tf.io.parse_example(serialized, self._features)
        except tf.errors.InvalidArgumentError:
            number, reason = _first_failure(where, lambda n: tf.io.parse_example(serialized[:n], self._features))
            raise UserError(
                f"{where.file}: record {number:,} cannot be read as its columns: {reason}",
                "Mend or leave out the record, or name other kinds.",
            ) from None
        columns = {name: _column(where, name, kind, parsed[name]) for name, kind in self.columns.items()}
        if order is None:
            return columns
        return {
            name: column.take(order) if isinstance(column, Ragged) else column[order]
            for name, column in columns.items()
        }


def _records(block: RecordBlock) -> tf.Tensor:
    """[records] string, checked against their checksums."""
    try:
        return _first_records(block, block.records)
    except tf.errors.OpError:
        number, reason = _first_failure(block, lambda n: _first_records(block, n))
        raise UserError(f"{block.file}: record {number:,} is damaged: {reason}", "Get or write it again.") from None


def _first_records(block: RecordBlock, records: int) -> tf.Tensor:
    """[records] string. The raw op, because tf.data.TFRecordDataset can only begin at a file's first byte; as a single
    element, because TensorFlow 2.20 fails to make an iterator of this op."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[str(block.file)], compression_type="", buffer_size=_BUFFER, byte_offsets=[block.offset]
    )
    dataset = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    return dataset.take(records).batch(records, drop_remainder=True).get_single_element()


def _first_failure(block: RecordBlock, read: Callable[[int], Any]) -> tuple[int, str]:
    """The number in its file, from 1, of the first record with which `read` (of so many of the block's first records)
    fails, and why: TensorFlow's messages do not always name it."""
    good, bad, reason = 0, block.records + 1, ""
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            read(middle)
            good = middle
        except tf.errors.OpError as error:
            bad, reason = middle, first_line(error)
    return block.first + bad, reason


def _column(block: RecordBlock, name: str, kind: Kind, tensor: tf.Tensor | tf.RaggedTensor) -> np.ndarray | Ragged:
    column: np.ndarray | Ragged
    if kind in RAGGED:
        column = Ragged(tensor.values.numpy(), tensor.row_splits.numpy())
    else:
        column = tensor.numpy().astype(np.float32 if kind == "dense" else np.int64, copy=False)
    if kind in ("dense", "weights"):
        need_finite(block.file, block.first, name, column)
    return column


def _parsed_as(kind: Kind, stored: tuple[str, set[int]]) -> Any:
    dtype = tf.int64 if stored[0] == "int64_list" else tf.float32
    if kind in RAGGED:
        return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
    return tf.io.FixedLenFeature([], dtype)


def _features_of(block: RecordBlock) -> dict[str, tuple[str, set[int]]]:
    """By name, how the first records store a feature and the numbers of values they have."""
    sample = RecordBlock(block.file, block.offset, block.first, min(block.records, SAMPLE))
    features: dict[str, tuple[str, set[int]]] = {}
    present: Counter[str] = Counter()
    records = _records(sample).numpy()
    for number, serialized in enumerate(records):
        try:
            example = tf.train.Example.FromString(serialized)
        except Exception as error:  # protobuf's own class has no public home that all its releases share
            raise UserError(
                f"{block.file}: record {number + 1:,} is no tf.train.Example ({first_line(error)}).",
                "Write the log as tf.train.Example.",
            ) from error
        for name, feature in example.features.feature.items():
            stored = feature.WhichOneof("kind")
            if stored is not None:
                lengths = features.setdefault(name, (stored, set()))[1]
                lengths.add(len(getattr(feature, stored).value))
                present[name] += 1
    for name, (_, lengths) in features.items():
        if present[name] < len(records):
            lengths.add(0)  # a record without it is one with none of its values
    return features


def _inferred(file: Path, seen: dict[str, tuple[str, set[int]]]) -> Columns:
    kinds: dict[str, Kind] = {}
    for name, (stored, lengths) in sorted(seen.items()):
        if stored == "bytes_list":
            raise UserError(
                f"{file}: {name} holds bytes: integers or floats are wanted.",
                "Name the columns to read and their kinds, or map this one to integers first.",
            )
        one = lengths == {1}
        kinds[name] = ("id" if one else "ids") if stored == "int64_list" else ("dense" if one else "weights")
    if not kinds:
        raise UserError(f"{file}: no feature in its first records.", "Get or write it again.")
    return kinds


def _need_feature(file: Path, name: str, kind: Kind, seen: dict[str, tuple[str, set[int]]]) -> None:
    if kind not in _STORED:
        raise ValueError(f"column '{name}': the kind {kind!r} is not one of {', '.join(_STORED)}")
    need_column(file, name, list(seen))
    if seen[name][0] not in _STORED[kind]:
        raise UserError(
            f"{file}: {name} is stored as {seen[name][0]}: as '{kind}', {' or '.join(_STORED[kind])} is wanted.",
            "Write the feature with another type, or name another kind.",
        )
