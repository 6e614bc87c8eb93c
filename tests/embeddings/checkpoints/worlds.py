"""Layers of all ranks of a world, in one process: nothing that saves or restores exchanges anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from embeddings import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    FeatureConfig,
    RowWiseAdagrad,
    ShardedEmbedding,
    TableConfig,
    save_tables,
)
from embeddings.sharding import KINDS, ShardingPlan, TableSharding
from embeddings.sharding.held import buckets_of_hashes, id_hashes
from foundation.tf import tf
from strategies import LocalCommunicator

OPTIMIZERS = (SGD(0.1), Adagrad(0.1), RowWiseAdagrad(0.1), Adam(0.1), FTRL(0.1))
_CODE = {name: number for number, name in enumerate(("rows", "accumulator", "momentum", "velocity", "linear"))}


class Rank(LocalCommunicator):
    def __init__(self, rank: int, size: int) -> None:
        self.place, self.ranks = rank, size

    rank = property(lambda self: self.place)
    size = property(lambda self: self.ranks)


def world(tables: list[TableConfig], plan: ShardingPlan) -> list[ShardedEmbedding]:
    """The layer of each rank."""
    features = {table.name: FeatureConfig(table, None) for table in tables}
    return [
        ShardedEmbedding(features, communicator=Rank(rank, plan.ranks), plan=plan if plan.ranks > 1 else None)
        for rank in range(plan.ranks)
    ]


def alone(tables: list[TableConfig]) -> ShardedEmbedding:
    (layer,) = world(tables, ShardingPlan(1, {}))
    return layer


@st.composite
def plans(draw, tables: list[TableConfig]) -> ShardingPlan:
    ranks = draw(st.integers(1, 4))
    return ShardingPlan(ranks, {table.name: draw(_shardings(table, ranks)) for table in tables})


@st.composite
def _shardings(draw, table: TableConfig, ranks: int) -> TableSharding:
    bounded = table.vocabulary_size is None and (table.admission or table.capacity)
    kind = draw(st.sampled_from([kind for kind in KINDS if not (kind == "hot_cold" and bounded)]))
    some = tuple(draw(st.permutations(range(ranks)))[: draw(st.integers(1, ranks))])
    if kind == "table_wise":
        return TableSharding(table.name, kind, some[:1])
    if kind == "column_wise":
        some = some[: table.dim]
        cuts = sorted(draw(st.sets(st.integers(1, table.dim - 1), min_size=len(some) - 1, max_size=len(some) - 1)))
        return TableSharding(table.name, kind, some, tuple(np.diff([0, *cuts, table.dim]).tolist()))
    if kind == "hot_cold":
        most = table.vocabulary_size or 3_000
        hot = sorted(draw(st.sets(st.integers(0, most - 1), min_size=1, max_size=min(most, 20))))
        return TableSharding(table.name, kind, some, (), len(hot), tuple(hot))
    return TableSharding(table.name, kind, tuple(range(ranks)) if kind == "data_parallel" else some)


@contextmanager
def saved_by(layers: list[ShardedEmbedding]) -> Iterator[Path]:
    """The folder that all ranks have saved in."""
    with tempfile.TemporaryDirectory() as folder:
        for layer in layers:
            save_tables(layer, folder)
        yield Path(folder)


def value_of(name: str, ids: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What a variable has at (id, column): any function of them does. [n, columns] float32; column -1 is of a number a
    row."""
    mixed = id_hashes(ids)[:, np.newaxis] + id_hashes(columns * 8 + _CODE[name])[np.newaxis]
    return ((id_hashes(mixed) >> np.uint64(45)).astype(np.float32) / 2**18 - 1).astype(np.float32)


def fill(layers: list[ShardedEmbedding], ids: dict[str, np.ndarray], steps: int = 3) -> None:
    """Gives every variable the values of `value_of`, as if it had been trained. ids: those that come to a dynamic
    table, in so many steps."""
    for layer in layers:
        for shard in layer.shards():
            shard.held.updates.assign(steps)
            if not shard.static:
                for come in np.array_split(ids[shard.config.name], steps):
                    mine = come[np.isin(buckets_of_hashes(id_hashes(come)), shard.buckets)]
                    if shard.ids is not None:
                        mine = mine[np.isin(mine, shard.ids)]
                    if shard.but is not None:
                        mine = mine[~np.isin(mine, shard.but)]
                    shard.held.find_or_insert([tf.constant(mine)])
            held, numbers = rows_by_id(shard)
            for name, variable in {"rows": shard.held.rows, **shard.held.slots}.items():
                columns = np.arange(*shard.columns) if variable.shape.rank == 2 else np.array([-1])
                values = value_of(name, held, columns)
                if shard.but is not None and shard.static:  # that another part has the truth of them is to be heeded
                    values[np.isin(held, shard.but)] = 7
                values = tf.reshape(tf.cast(values, variable.dtype), [len(held), *variable.shape[1:]])
                variable.scatter_update(tf.IndexedSlices(values, tf.constant(numbers)))


def rows_by_id(shard) -> tuple[np.ndarray, np.ndarray]:
    """(ids, rising but that of the row that ids without one share, the numbers of their rows)."""
    if not shard.static:
        ids, rows = shard.held.ids_and_rows()
        return np.concatenate([[-(2**63)], ids]), rows
    ids = np.arange(shard.config.vocabulary_size)
    ids = ids[np.isin(ids % 1024, shard.buckets)]
    ids = ids if shard.ids is None else shard.ids
    return ids, shard.rows_of(ids)


def state_of(shard) -> dict[str, tuple]:
    """All that a shard has, to the bit, rows in the order of ids."""
    _, numbers = rows_by_id(shard)
    held = {"rows": shard.held.rows, **shard.held.slots}
    variables = {name: tf.gather(variable, numbers).numpy() for name, variable in held.items()}
    variables["updates"] = np.array(shard.held.updates)
    if not shard.static:
        variables["identities"] = tf.gather(shard.held.identities, numbers).numpy()
        variables.update((f"id_{name}", part) for name, part in shard.held.id_state().items() if name != "rows")
    return {name: (part.dtype.name, part.shape, part.tobytes()) for name, part in variables.items()}
