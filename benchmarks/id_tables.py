"""A dynamic table's find-or-insert against TensorFlow's own hash tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.ids import DISTRIBUTIONS
from benchmarks.interleaved import interleave
from benchmarks.report import Report
from embeddings import RowWiseAdagrad, TableConfig
from embeddings.kernels import kernels
from embeddings.tables.identity import IdPolicy
from foundation.tf import tf

_EMPTY, _DELETED = -1, -2


def add_id_tables(report: Report, quick: bool) -> None:
    """Keys a second of find-or-insert while a table fills from a Zipf 1.05 stream, batch after batch: from empty, so
    that all of insertion, growth and finding is in it. What each gives for an id is checked to be the same at all
    times."""
    batch, batches, vocabulary = (2_000, 5, 10_000) if quick else (212_992, 30, 10_000_000)
    generator = np.random.default_rng(2)
    ids = DISTRIBUTIONS["zipf105"](generator, (batches, batch), vocabulary)
    stream = [tf.constant(piece) for piece in ids]
    contenders: dict[str, Callable[[], Any]] = {
        "headrace": _Headrace,
        "mutable_hash_table": lambda: _TensorFlows(tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, _EMPTY)),
        "dense_hash_table": lambda: _TensorFlows(
            tf.lookup.experimental.DenseHashTable(tf.int64, tf.int64, _EMPTY, empty_key=_EMPTY, deleted_key=_DELETED)
        ),
    }

    def filled(make: Callable[[], Any]) -> float:
        table = make()
        step = tf.function(table.find_or_insert, input_signature=[tf.TensorSpec([None], tf.int64)])
        step(stream[0][:1])
        start = time.perf_counter()
        rows = [step(piece) for piece in stream]
        seconds = time.perf_counter() - start
        _check(ids, [piece.numpy() for piece in rows])
        return seconds

    turns = {name: lambda _, make=make: filled(make) for name, make in contenders.items()}
    times = interleave(turns, 3 if quick else 5, 1)
    ours = times["headrace"].median
    for name, taken in times.items():
        rate = ids.size / taken.median
        report.table.add_row(
            "find or insert" if name == "headrace" else "",
            f"{name}, {rate / 1e6:.1f} M ids/s",
            f"{taken.median * 1e3:.2f}",
            f"{taken.spread:.0%}",
            f"{ours / taken.median:.2f}",
            end_section=name == "dense_hash_table",
        )
        report.metrics[f"dynamic.{name}_ids_per_s"] = rate
        if name != "headrace":
            report.metrics[f"dynamic_find_or_insert_vs_{name}"] = taken.median / ours


def _check(ids: np.ndarray, rows: list[np.ndarray]) -> None:
    """One row for each id, and for no other."""
    distinct, first, places = np.unique(ids.ravel(), return_index=True, return_inverse=True)
    flat = np.concatenate(rows)
    if len(np.unique(flat)) != len(distinct) or np.any(flat[first][places] != flat):
        raise AssertionError("a hash table gave two ids one row, or an id two")


class _Headrace:
    """The id table of a dynamic table of one float a row: what it writes besides is little."""

    def __init__(self) -> None:
        config = TableConfig("ids", None, 1, RowWiseAdagrad())
        self._table = kernels().id_table(IdPolicy.of(config))
        self._identities = tf.Variable(tf.zeros([1], tf.int64), shape=[None])
        self._rows = tf.Variable(tf.zeros([1, 1]), shape=[None, 1])

    def find_or_insert(self, ids: tf.Tensor) -> tf.Tensor:
        return self._table.find_or_insert([ids], self._identities, self._rows, [], 0.05)[0]


class _TensorFlows:
    """As one would write it with TensorFlow's tables: find; number the distinct new ids; insert them."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._next = tf.Variable(1, dtype=tf.int64)

    def find_or_insert(self, ids: tf.Tensor) -> tf.Tensor:
        found = tf.reshape(self._table.lookup(ids), [-1])
        new, places = tf.unique(tf.boolean_mask(ids, found < 0))
        first = self._next.read_value()
        numbers = first + tf.range(tf.size(new, tf.int64))
        self._table.insert(new, numbers)
        self._next.assign_add(tf.size(new, tf.int64))
        return tf.tensor_scatter_nd_update(found, tf.where(found < 0), first + tf.cast(places, tf.int64))
