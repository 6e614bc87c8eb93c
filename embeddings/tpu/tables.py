"""Our tables and features as a TPU's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embeddings.config import FeatureConfig, TableConfig, tables_of
from embeddings.hashing import initial_rows, table_key
from embeddings.tpu.optimizers import TpuOptimizers
from foundation.errors import UserError
from foundation.tf import tf

_BYTES_PER_CHUNK = 1 << 24
_MOST_ROWS = 2**31 - 1  # its ids are 32-bit


def tpu_features(
    features: Mapping[str, FeatureConfig],
    shapes: Mapping[str, Sequence[int]],
    optimizers: TpuOptimizers,
    by_shards: bool,
) -> dict[str, Any]:
    """The `tf.tpu.experimental.embedding.FeatureConfig` of each feature.

    Every table combines by "sum": combiners are a feature's here and a table's there, so the weights that `inputs`
    gives make a sum the mean or sqrtn. shapes: of a feature's output on one replica, without its dim; empty where no
    TPU is asked. by_shards: see `initializer`.

    Raises:
      UserError: a TPU cannot hold one of the tables.
    """
    theirs = tf.tpu.experimental.embedding
    tables = {}
    for name, table in tables_of(features).items():
        _check(table)
        tables[name] = theirs.TableConfig(
            vocabulary_size=table.vocabulary_size,
            dim=table.dim,
            initializer=initializer(table, by_shards),
            optimizer=optimizers.of(name, table.optimizer),
            combiner="sum",
            name=name,
        )
    return {
        name: theirs.FeatureConfig(
            table=tables[feature.table.name], output_shape=list(shapes[name]) if name in shapes else None, name=name
        )
        for name, feature in features.items()
    }


def initializer(table: TableConfig, by_shards: bool) -> Callable[..., tf.Tensor]:
    """Gives the rows that a StaticTable begins with, computed chunk by chunk.

    by_shards: it is asked for each shard alone, its rows those from `shard_info.offset[0]` on: so TensorFlow lays the
    classic TPU embedding's ids over hosts. For SparseCores it asks for the whole table and picks a shard's rows itself.
    """
    key = table_key(table.seed, table.name)
    step = max(_BYTES_PER_CHUNK // (8 * table.dim), 1)

    def rows(first: int, count: int) -> tf.Tensor:
        end = first + count
        chunks = [tf.range(start, min(start + step, end), dtype=tf.int64) for start in range(first, end, step)]
        return tf.concat([initial_rows(ids, table.dim, key, table.scale) for ids in chunks], 0)

    def whole(shape: Any, dtype: tf.DType = tf.float32) -> tf.Tensor:
        return _padded(rows(0, int(shape[0])), int(shape[1]), dtype)

    def shard(shape: Any, dtype: tf.DType = tf.float32, shard_info: Any = None) -> tf.Tensor:
        if shard_info is None:
            return whole(shape, dtype)
        return tf.cast(rows(int(shard_info.offset[0]), int(shard_info.shape[0])), dtype)

    return shard if by_shards else whole


def _padded(rows: tf.Tensor, width: int, dtype: tf.DType) -> tf.Tensor:
    """SparseCores widen a table to what they like; no output has the further columns."""
    return tf.cast(tf.pad(rows, [[0, 0], [0, width - rows.shape[1]]]), dtype)


def _check(table: TableConfig) -> None:
    if table.vocabulary_size is None:
        raise UserError(
            f"table '{table.name}': a dynamic table cannot lie on a TPU, whose tables have every row from the start.",
            "Give it a vocabulary_size and number its ids 0 to vocabulary_size - 1, or take another strategy.",
        )
    if table.track_updates:
        raise UserError(
            f"table '{table.name}': track_updates; a TPU does not tell which rows it touched.",
            "Leave it out, or take another strategy.",
        )
    if table.vocabulary_size > _MOST_ROWS:
        raise UserError(
            f"table '{table.name}': {table.vocabulary_size:,} rows; a TPU's ids are 32-bit.",
            f"Give it at most {_MOST_ROWS:,} rows, or take another strategy.",
        )
    for option in ("precision", "slot_precision"):
        if (stored := getattr(table, option)) != "float32":
            raise UserError(
                f"table '{table.name}': {option} is {stored}; a TPU stores its tables in float32.",
                f"Leave {option} out, or take another strategy.",
            )
