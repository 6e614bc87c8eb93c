"""The twin: the same lookups and updates in TensorFlow's own ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embeddings.config import TableConfig
from embeddings.hashing import initial_rows, table_key
from embeddings.kernels.group import Bag, TableGroup
from embeddings.kernels.reference_exchange import (
    arrived_ids,
    merge,
    of_ids,
    pack,
    pool,
    summed_at,
    sums,
    unpack,
)
from embeddings.kernels.reference_ids import ReferenceIdTable
from embeddings.kernels.reference_requests import requests, unique_by_owner
from embeddings.pooling import assert_finite, assert_inside, checks_of_splits, norms, pooled, rows_of_ids
from embeddings.precision import rounded
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.kernels.group import Table
    from embeddings.tables.identity import IdPolicy

__all__ = [
    "addresses",
    "arrived_ids",
    "dots",
    "dots_gradient",
    "empty",
    "gradient_of_weights",
    "id_table",
    "lookup",
    "merge",
    "new_rows",
    "new_slot",
    "pack",
    "pool",
    "requests",
    "step",
    "step_rows",
    "summed",
    "summed_at",
    "sums",
    "unique_by_owner",
    "unpack",
    "update",
]
_BYTES_PER_CHUNK = 1 << 26


def new_rows(config: TableConfig, ids: np.ndarray | None = None, first_column: int = 0) -> tf.Variable:
    """[vocabulary_size, dim]: a new table's rows, their initial values (`embeddings.hashing`) written chunk by chunk,
    so that no second copy of the table is ever held. Of a shard, `config` being its own: ids [vocabulary_size] int64,
    the id of each row (none: its number), and the column of the table that its first one is."""
    size, dtype = config.vocabulary_size, tf.as_dtype(config.precision)
    assert size is not None
    rows = tf.Variable(tf.zeros((size, config.dim), dtype), trainable=False, name=f"{config.name}/rows")
    key = table_key(config.seed, config.name)
    step = max(_BYTES_PER_CHUNK // (8 * config.dim), 1)
    for start in range(0, size, step):
        places = tf.range(start, min(start + step, size), dtype=tf.int64)
        of_rows = places if ids is None else tf.constant(ids[start : start + step], tf.int64)
        initial = initial_rows(of_rows, first_column + config.dim, key, config.scale)[:, first_column:]
        rows.scatter_update(tf.IndexedSlices(tf.cast(initial, dtype), places))
    return rows


def new_slot(shape: tuple[int, ...], value: float, dtype: tf.DType, name: str) -> tf.Variable:
    """A new slot variable, every element `value`."""
    return tf.Variable(tf.fill(shape, tf.cast(value, dtype)), trainable=False, name=name)


def empty(variables: Sequence[tf.Variable], rows: int) -> None:
    """A dynamic table's variables [n, ...] become `rows` rows of zeros, before a checkpoint is read into them."""
    for variable in variables:
        variable.assign(tf.zeros([rows, *variable.shape[1:]], variable.dtype))


def addresses(variables: Sequence[tf.Variable]) -> list[int] | None:
    """Where each variable lies in this process' memory, as long as it is not made anew; None: nobody can tell."""
    return None


def id_table(policy: IdPolicy) -> ReferenceIdTable:
    """A new table of ids."""
    return ReferenceIdTable(policy)


def dots(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """[B, pairs]: the dot product of every two of the vectors [B, dim], as `interactions.pairwise_dots` orders them."""
    count = len(vectors)
    stacked = tf.stack(vectors, axis=1)
    products = tf.matmul(stacked, stacked, transpose_b=True)
    first, second = np.tril_indices(count, -1)
    return tf.gather(tf.reshape(products, [-1, count * count]), first * count + second, axis=1)


def dots_gradient(vectors: Sequence[tf.Tensor], gradient: tf.Tensor) -> list[tf.Tensor]:
    """[B, dim] for each of the vectors, from the gradient [B, pairs] of `dots`. The products are symmetric, so one
    matrix product does for two."""
    count = len(vectors)
    first, second = np.tril_indices(count, -1)
    pair_of = np.full((count, count), len(first))  # the last: a zero, for the diagonal
    pair_of[first, second] = pair_of[second, first] = np.arange(len(first))
    padded = tf.pad(gradient, [[0, 0], [0, 1]])
    of_products = tf.reshape(tf.gather(padded, pair_of.ravel(), axis=1), [-1, count, count])
    return tf.unstack(tf.matmul(of_products, tf.stack(vectors, axis=1)), axis=1)


def rows_of(table: Table, ids: tf.Tensor) -> tf.Tensor:
    """[n, dim] float32: the rows `ids` [n] int64 of a table."""
    return tf.cast(tf.gather(table.rows, ids), tf.float32)


def lookup(group: TableGroup, bags: list[Bag]) -> list[tf.Tensor]:
    """[B, dim] float32 of each bag's feature: its rows, weighted and combined. An empty bag, and one whose weights sum
    to 0, is a zero vector.

    Raises:
      tf.errors.InvalidArgumentError: an id is outside its vocabulary, a weight is not finite, or splits do not rise
        from 0 to the number of ids; the feature is named.
    """
    outputs = []
    for bag in bags:
        table = group.tables[bag.table]
        with tf.control_dependencies(_checks(bag, table)):
            vectors = rows_of(table, bag.ids)
        outputs.append(pooled(vectors, bag))
    return outputs


def update(group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
    """One step of every table that a bag looks up in: the gradients [B, dim] of `lookup`'s outputs, summed by row."""
    for table, (ids, gradient) in summed(group, bags, gradients).items():
        step_rows(group.tables[table], ids, gradient)


def step(group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
    """The same where each bag is some distinct rows of a table that no other bag looks up in: gradients [n, dim]."""
    for bag, gradient in zip(bags, gradients, strict=True):
        step_rows(group.tables[bag.table], bag.ids, gradient)


def summed(group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> dict[int, tuple[tf.Tensor, tf.Tensor]]:
    """By place in the group: (distinct ids [u] int64, their gradients summed over occurrences [u, dim])."""
    parts: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {}
    for bag, gradient in zip(bags, gradients, strict=True):
        parts.setdefault(bag.table, []).append((bag.ids, of_ids(tf.convert_to_tensor(gradient), bag)))
    sums = {}
    for table, pieces in parts.items():
        ids, flat = (tf.concat(values, axis=0) for values in zip(*pieces, strict=True))
        distinct, places = tf.unique(ids)
        sums[table] = distinct, tf.math.unsorted_segment_sum(flat, places, tf.size(distinct))
    return sums


def gradient_of_weights(group: TableGroup, bag: Bag, output: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """[n]: the gradient of a bag's weights w, from its output o = S / norm [B, dim] and that one's gradient g: of
    w_i, with row v_i, (g . v_i - g . o dnorm/dw_i) / norm."""
    rows = rows_of_ids(bag.splits)
    spread = tf.gather(gradient, rows)
    along = tf.reduce_sum(spread * rows_of(group.tables[bag.table], bag.ids), axis=1)
    if bag.combiner == "sum":
        return along
    norm = tf.gather(norms(bag), rows)
    across = tf.gather(tf.reduce_sum(gradient * output, axis=1), rows)
    return (along - across * (1.0 if bag.combiner == "mean" else bag.weights * norm)) * norm


def step_rows(table: Table, ids: tf.Tensor, gradient: tf.Tensor, **known: tf.Tensor) -> list[tf.Operation]:
    """One optimizer step on rows `ids` [u] int64, distinct, with their gradient [u, dim] float32. known: what the
    optimizer's `step` takes besides. Returns what, in a graph, has run once the step is made."""
    optimizer, updates = table.config.optimizer, table.updates.read_value()
    variables = {"rows": table.rows, **table.slots}
    numbers = optimizer.numbers(updates)
    before = {name: tf.cast(tf.gather(variable, ids), tf.float32) for name, variable in variables.items()}
    rows, slots = optimizer.step(before.pop("rows"), before, optimizer.clipped(gradient), numbers, **known)
    identities = ids if table.identities is None else tf.gather(table.identities, ids)
    written = []
    for place, (name, values) in enumerate({"rows": rows, **slots}.items()):
        variable = variables[name]
        stored = rounded(values, variable.dtype, table.key, identities, updates, place)
        # the same numbers as scatter_sub, whose CPU kernel adds on one thread
        written.append(variable.scatter_update(tf.IndexedSlices(stored, ids)))
    written.append(table.updates.assign_add(1))
    return [] if tf.executing_eagerly() else [each.op for each in written]


def _checks(bag: Bag, table: Table) -> list[tf.Operation]:
    checks = []
    if (size := table.config.vocabulary_size) is not None:
        checks.append(assert_inside(bag.name, bag.ids, size))
    if bag.weights is not None:
        checks.append(assert_finite(bag))
    checks += checks_of_splits(bag)
    return [check for check in checks if check is not None]
