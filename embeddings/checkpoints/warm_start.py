"""Tables that begin with rows of others, by a mapping of ids: a new training that knows what an old one learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.checkpoints.manifest import Saved
from embeddings.checkpoints.saved_rows import OF_IDS, SavedDynamicRows, SavedRows, opened
from embeddings.checkpoints.variables import put, stretches, variables_of
from embeddings.layer import ShardedEmbedding
from embeddings.sharding.held import HeldShard, buckets_of_hashes, id_hashes
from embeddings.sharding.sharded import BUCKETS
from embeddings.tables.dynamic import NO_ID, DynamicTable
from embeddings.tables.identity import COUNTS, IdPolicy
from foundation.errors import UserError, nearest

Mapped = tuple[np.ndarray, np.ndarray]  # ids there and here, [n] integers each, in pairs; none here twice


@dataclass(frozen=True)
class WarmStarted:
    """Of a table: ids whose rows came along; ids that keep their initial values (None: of a dynamic table, which has
    none but those that came); ids of the other table that nothing here begins with. slots: slot variables that came
    along; left_out: those that begin anew."""

    kept: int
    new: int | None
    dropped: int
    slots: tuple[str, ...]
    left_out: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "slots": list(self.slots), "left_out": list(self.left_out)}


def warm_start(
    layer: ShardedEmbedding, folder: str | Path, mappings: Mapping[str, Mapped | None]
) -> dict[str, WarmStarted]:
    """Rows of the layer's tables begin as those of the tables of the same names that `save_tables` wrote in `folder`.
    mappings: by table, (ids there, ids here); None: every id is the same in both. Ids without a partner keep their
    values. Slot variables come along where the optimizer is of the same kind, and then the number of updates that
    Adam's correction of bias counts; else they keep theirs. A dynamic table becomes one of the ids that came, as often
    seen as before. Every process calls it with the same arguments. Tells, by table, what came.

    Raises:
      UserError: a table is not there, or of another dim, or what is read is damaged. ValueError: an id is not of its
        table, or has two partners.
    """
    root = Path(folder)
    saved = Saved.read(root)
    told = {}
    found: dict[str, tuple[SavedRows, Mapped]] = {}
    for name, mapped in mappings.items():
        if name not in layer.table_configs:
            raise ValueError(f"no table '{name}'; the layer has {sorted(layer.table_configs)}")
        config = layer.table_configs[name]
        if name not in saved.tables:
            raise UserError(f"{root}: no table '{name}'; {nearest(name, saved.tables)}", "Begin with tables it has.")
        rows = opened(saved, name)
        if rows.table.dim != config.dim:
            raise UserError(
                f"{root}: table '{name}' has dim {rows.table.dim}; the layer's has {config.dim}.",
                "Rows can only be taken as they are: give the table that dim.",
            )
        found[name] = rows, _checked(name, rows, config.vocabulary_size, mapped)
    for name, (rows, (there, _)) in found.items():
        config = layer.table_configs[name]
        coming, left_out = _slots(rows, type(config.optimizer).__name__, config.optimizer.slots)
        new = None if config.vocabulary_size is None else config.vocabulary_size - len(there)
        dropped = rows.count - len(np.unique(there))
        told[name] = WarmStarted(len(there), new, dropped, coming, left_out)
    for shard in layer.shards():
        if shard.config.name in found:
            rows, mapped = found[shard.config.name]
            _begin(shard, rows, mapped, told[shard.config.name].slots)
    return told


def _checked(name: str, rows: SavedRows, size: int | None, mapped: Mapped | None) -> Mapped:
    """The pairs of ids that both have, in the order in which those there are quickly read."""
    if mapped is None:
        every = np.concatenate([np.zeros(0, np.int64), *rows.ids()])
        if size is not None:
            every = every[(every >= 0) & (every < size)]
        return every, every
    there, here = (np.asarray(ids, np.int64) for ids in mapped)
    if there.shape != here.shape or there.ndim != 1:
        raise ValueError(f"table '{name}': a mapping is two lists of ids of one length")
    if not rows.holds(there).all():
        raise ValueError(f"table '{name}': id {there[~rows.holds(there)][0]} has no row there")
    if size is not None and not ((here >= 0) & (here < size)).all():
        raise ValueError(f"table '{name}': id {here[(here < 0) | (here >= size)][0]} is not in 0 to {size - 1}")
    if len(np.unique(here)) != len(here):
        raise ValueError(f"table '{name}': an id here has two partners")
    hashes = id_hashes(there) if isinstance(rows, SavedDynamicRows) else (there % BUCKETS << 48) + there // BUCKETS
    order = np.argsort(hashes)
    return there[order], here[order]


def _slots(rows: SavedRows, optimizer: str, slots: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(those that come along, those that do not)."""
    same = rows.table.optimizer == optimizer
    coming = tuple(
        name for name, slot in slots.items() if same and name in rows.slots and rows.variables[name].wide == slot.wide
    )
    return coming, tuple(name for name in slots if name not in coming)


def _begin(shard: HeldShard, rows: SavedRows, mapped: Mapped, slots: tuple[str, ...]) -> None:
    there, here = mapped
    mine = _held(shard, here)
    there, here = there[mine], here[mine]
    if isinstance(shard.held, DynamicTable):
        there, here = _become(shard.held, shard, rows, there, here)
        numbers = np.arange(len(here))
    else:
        numbers = shard.rows_of(here)
    variables = variables_of(shard.held)
    for name in ("rows", *slots):
        columns = shard.columns if variables[name].shape.rank == 2 else None
        for stretch in stretches(len(there), rows.rows_at_once):
            if there[stretch][0] == NO_ID and not isinstance(rows, SavedDynamicRows):
                stretch = slice(stretch.start + 1, stretch.stop)
            if stretch.start < stretch.stop:
                put(variables[name], numbers[stretch], rows.read(name, there[stretch], columns))
    if slots and rows.table.optimizer == "Adam":
        shard.held.updates.assign(rows.updates)


def _held(shard: HeldShard, ids: np.ndarray) -> np.ndarray:
    """[n] bool: whether a shard has the row of ids [n]."""
    buckets = ids % BUCKETS if shard.static else buckets_of_hashes(id_hashes(ids))
    held = np.isin(buckets, shard.buckets)
    if shard.ids is not None:
        held &= np.isin(ids, shard.ids)
    if shard.but is not None:
        held &= ~np.isin(ids, shard.but)
    return held


def _become(table: DynamicTable, shard: HeldShard, rows: SavedRows, there: np.ndarray, here: np.ndarray) -> Mapped:
    """Gives a dynamic table the ids `here`; returns the pairs in the order of its rows, the shared one first."""
    initial = {name: slot.initial for name, slot in table.config.optimizer.slots.items()}
    policy = IdPolicy.of(shard.config)
    known = {name: np.zeros(len(here), np.int64) for name in OF_IDS}
    if "frequencies" in rows.variables and len(there):
        known["frequencies"] = rows.read("frequencies", there)
    counts = dict.fromkeys(COUNTS, 0) | {"rows": len(here), "insertions": len(here)}
    table.begin_with(
        {
            "ids": here,
            **known,
            "counters": np.zeros(policy.cells << policy.bucket_bits, np.uint8),
            "counted": np.zeros(1 << policy.bucket_bits, np.int64),
            "counts": np.array([counts[name] for name in COUNTS]),
        }
    )
    for name, value in initial.items():
        variable = table.slots[name]
        for stretch in stretches(len(here) + 1, rows.rows_at_once):
            shape = (stretch.stop - stretch.start, *variable.shape[1:])
            put(variable, np.arange(stretch.start, stretch.stop), np.full(shape, value, np.float32))
    return np.concatenate([[NO_ID], there]), np.concatenate([[NO_ID], here])
