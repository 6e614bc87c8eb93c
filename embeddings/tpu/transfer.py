"""A TPU's tables into an ordinary ShardedEmbedding, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from embeddings.layer import ShardedEmbedding
from embeddings.tables.static import StaticTable
from embeddings.tpu.layer import TpuEmbedding
from embeddings.tpu.optimizers import SLOTS
from foundation.tf import tf

_BYTES_PER_PIECE = 1 << 24


def to_ordinary(source: TpuEmbedding, target: ShardedEmbedding) -> None:
    """Gives the target's tables the rows, slot variables and number of updates of the source's, by name and id.

    source: made outside a TPUStrategy, a TPU's checkpoint restored into it. target: in one process; its tables are the
    source's, or some of them.

    Raises:
      ValueError: they do not have the same tables; nothing was copied then.
    """
    for name, table in _same_tables(source, target).items():
        theirs = source.variables_of(name)
        _copy(theirs["parameters"], table.rows)
        for slot, variable in table.slots.items():
            _copy(theirs[SLOTS[slot]], variable)
        table.updates.assign(source.updates)


def from_ordinary(source: ShardedEmbedding, target: TpuEmbedding) -> None:
    """The other way: the target, made outside a TPUStrategy, may then be saved for a TPU to restore.

    Raises:
      ValueError: they do not have the same tables, the source lacks one of the target's, or the source's were not
        updated equally often, which a TPU counts once for all; nothing was copied then.
    """
    tables = _same_tables(target, source)
    if missing := sorted(target.table_configs.keys() - tables.keys()):
        raise ValueError(f"{source.name} has no table {missing}, which {target.name} has")
    from_tables(tables, target)


def from_tables(tables: Mapping[str, StaticTable], target: TpuEmbedding) -> None:
    """`from_ordinary` of tables by name: all of the target's.

    Raises:
      ValueError: they were not updated equally often; nothing was copied then.
    """
    updates = {name: int(table.updates) for name, table in tables.items()}
    if len(set(updates.values())) > 1:
        raise ValueError(f"a TPU updates all tables in every step; these were not updated equally often: {updates}")
    for name, table in tables.items():
        theirs = target.variables_of(name)
        _copy(table.rows, theirs["parameters"])
        for slot, variable in table.slots.items():
            _copy(variable, theirs[SLOTS[slot]])
        target.updates.assign(table.updates)


def _same_tables(on_tpu: TpuEmbedding, ordinary: ShardedEmbedding) -> dict[str, StaticTable]:
    """The ordinary layer's tables by name, each one of the TPU's."""
    if isinstance(ordinary, TpuEmbedding) or ordinary.communicator.size != 1:
        raise ValueError(f"{ordinary.name}: a ShardedEmbedding of one process is wanted")
    known = on_tpu.table_configs
    tables = {}
    for name, config in ordinary.table_configs.items():
        theirs = known.get(name)
        table = ordinary.held(name)
        same = theirs is not None and (theirs.vocabulary_size, theirs.dim, type(theirs.optimizer)) == (
            config.vocabulary_size,
            config.dim,
            type(config.optimizer),
        )
        if not same or not isinstance(table, StaticTable):
            raise ValueError(
                f"table '{name}': {ordinary.name} has {config}, {on_tpu.name} has {theirs}; size, dim and kind of "
                "optimizer must be the same"
            )
        tables[name] = table
    return tables


def _copy(source: tf.Variable, target: tf.Variable) -> None:
    for start, stop in _pieces(*source.shape):
        places = tf.range(start, stop)
        target.scatter_update(tf.IndexedSlices(tf.cast(tf.gather(source, places), target.dtype), places))


def _pieces(count: int, dim: int) -> Iterator[tuple[int, int]]:
    step = max(_BYTES_PER_PIECE // (4 * dim), 1)
    for start in range(0, count, step):
        yield start, min(start + step, count)
