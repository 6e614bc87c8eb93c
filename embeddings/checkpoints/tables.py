"""A layer's tables saved by logical bucket, each rank its own, and read at any world size and sharding plan."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

from embeddings.checkpoints import dynamic_tables, static_tables
from embeddings.checkpoints.arrays import Reader
from embeddings.checkpoints.manifest import Manifest, Saved, SavedTable, rank_folder
from embeddings.checkpoints.optimizer_change import change_of
from embeddings.layer import ShardedEmbedding
from foundation.errors import UserError, nearest
from foundation.files import disk_errors

LONGEST_NAME = 100


def save_tables(layer: ShardedEmbedding, folder: str | Path) -> None:
    """Writes what this process holds of the layer's tables, below FOLDER/rank-NNNNN of each of its ranks: rows, slot
    variables, and all that a dynamic table knows of its ids. Every process calls it, in any order, with the same
    folder; what all ranks hold is written by rank 0. When it returns everything is on the disk.
    docs/checkpoint-format.md describes the files. The folder holds no other checkpoint's tables.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    for rank in layer.local_ranks:
        _save_rank(layer, rank, Path(folder))


def restore_tables(layer: ShardedEmbedding, folder: str | Path) -> None:
    """Reads into the layer's tables what this process holds of them, and no more, whatever world size, sharding plan
    and precision they were saved under. With the same ranks, plan and precision it is the same to the bit. Under an
    optimizer of another kind rows come along, and slot variables as `optimizer_change` says.

    Raises:
      UserError: a file is missing, truncated or damaged (it is named), or the tables are not the layer's. Unless they
        are not the layer's, tables may have been overwritten.
    """
    root = Path(folder)
    saved = Saved.read(root)
    _check_tables(layer, saved)
    changes = {name: change_of(saved, config) for name, config in layer.table_configs.items()}
    for shard in layer.shards():
        restore, change = static_tables.restore if shard.static else dynamic_tables.restore, changes[shard.config.name]
        restore(shard, root, saved.parts_of(shard.config.name), change.anew if change else ())
        if change:
            change.begin_slots(shard)


def verify_tables(folder: str | Path) -> None:
    """Reads everything that `save_tables` wrote.

    Raises:
      UserError: a file is missing, truncated or damaged (it is named).
    """
    root = Path(folder)
    for part in Saved.read(root).parts:
        for array in part.arrays.values():
            Reader(root, array).check()


def _save_rank(layer: ShardedEmbedding, rank: int, root: Path) -> None:
    configs, own = layer.table_configs, rank_folder(rank)
    number = {name: place for place, name in enumerate(configs)}
    with disk_errors(root / own):
        shutil.rmtree(root / own, ignore_errors=True)
        (root / own).mkdir(parents=True)
        parts = []
        for shard in layer.shards():
            if shard.rank != rank or (shard.replicated and rank != 0):
                continue
            save = static_tables.save if shard.static else dynamic_tables.save
            name = quote(shard.config.name, safe="")[:LONGEST_NAME]
            parts.append(save(shard, root, f"{own}/{number[shard.config.name]:04d}-{name}/{shard.part}"))
        tables = [SavedTable.of(config) for config in configs.values()]
        Manifest(rank, layer.communicator.size, tables, parts).write(root)


def _check_tables(layer: ShardedEmbedding, saved: Saved) -> None:
    wanted = {name: SavedTable.of(config) for name, config in layer.table_configs.items()}
    remedy = "Restore into the model that was saved."
    for name, table in wanted.items():
        if name not in saved.tables:
            raise UserError(f"{saved.root}: no table '{name}'; {nearest(name, saved.tables)}", remedy)
        for option, here in vars(table).items():
            if option == "optimizer":  # `change_of` knows what becomes of its slot variables
                continue
            there = getattr(saved.tables[name], option)
            if here != there:
                raise UserError(f"{saved.root}: table '{name}' has {option} {there}; the layer's has {here}.", remedy)
    for name in saved.tables:
        if name not in wanted:
            raise UserError(f"{saved.root}: has a table '{name}'; the layer has {', '.join(sorted(wanted))}.", remedy)
