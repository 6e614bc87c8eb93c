"""A layer's tables saved by logical bucket, each rank its own, and read at any world size and sharding plan."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embeddings.checkpoints import dynamic_tables, static_tables
from embeddings.checkpoints.arrays import Reader
from embeddings.checkpoints.images import Image, Live, image_of
from embeddings.checkpoints.manifest import (
    ANY_RANK,
    MANIFEST,
    Manifest,
    Saved,
    SavedPart,
    SavedTable,
    rank_folder,
    table_folder,
)
from embeddings.checkpoints.optimizer_change import change_of
from embeddings.checkpoints.variables import variables_of
from embeddings.layer import ShardedEmbedding
from embeddings.sharding.held import HeldShard
from foundation.errors import UserError, nearest
from foundation.files import disk_errors
from foundation.progress import say_once

_SECONDS_A_LOOK = 0.02
_FAILED = "failed-"


def save_tables(layer: ShardedEmbedding, folder: str | Path) -> None:
    """Writes what this process holds of the layer's tables, below FOLDER/rank-NNNNN of each of its ranks: rows, slot
    variables, and all that a dynamic table knows of its ids. Every process calls it, in any order, with the same
    folder; what all ranks hold is written by rank 0. When it returns everything is on the disk.
    docs/checkpoint-format.md describes the files. The folder holds no other checkpoint's tables.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    Snapshot(layer, _own(layer), Live()).write(folder)


def snapshot_tables(layer: ShardedEmbedding) -> Snapshot:
    """What this process holds of the layer's tables, as it is now, for whoever writes it while training goes on; to be
    closed. To be called in a thread that outlives the writing."""
    shards = _own(layer)
    variables = [variable for shard in shards for variable in variables_of(shard.held).values()]
    image = image_of(variables)
    try:
        return Snapshot(layer, shards, image)
    except BaseException:
        image.close()
        raise


@dataclass(frozen=True)
class Base:
    """A save that later ones of the same process may build on. parts: those of tables that track their updates, by
    their paths below its folder, as they were saved in full."""

    root: Path
    parts: dict[str, SavedPart]


class Snapshot:
    """A layer's tables at a moment. A context manager."""

    def __init__(self, layer: ShardedEmbedding, shards: Sequence[HeldShard], image: Image) -> None:
        """image: of the shards' variables."""
        self._image = image
        self._ranks, self._of = list(layer.local_ranks), layer.communicator.size
        self._tables = [SavedTable.of(config) for config in layer.table_configs.values()]
        number = {name: place for place, name in enumerate(layer.table_configs)}
        self._parts: list[tuple[int, str, static_tables.Taken | dynamic_tables.Taken]] = []
        for shard in shards:
            name = shard.config.name
            path = f"{rank_folder(shard.rank)}/{table_folder(number[name], name)}/{shard.part}"
            taken = static_tables.Taken(shard) if shard.static else dynamic_tables.Taken(shard)
            self._parts.append((shard.rank, path, taken))

    @property
    def holds(self) -> bool:
        """Whether tables may change before it is written."""
        return self._image.holds

    def write(self, folder: str | Path, base: Base | None = None) -> Base:
        """As `save_tables`. Given a base, of tables that track their updates only the rows that changed since; what has
        not is the base's files, under a second name. Gives what later saves may have as their base, once `folder` has
        the name it keeps."""
        root, full = Path(folder), {}
        for rank in self._ranks:
            own = root / rank_folder(rank)
            with disk_errors(own):
                shutil.rmtree(own, ignore_errors=True)
                own.mkdir(parents=True)
                parts = []
                for of, path, taken in self._parts:
                    if of != rank:
                        continue
                    if not isinstance(taken, static_tables.Taken) or not taken.tracks:
                        parts.append(taken.save(self._image, root, path))
                        continue
                    known = None if base is None else base.parts.get(path)
                    if base is not None and known is not None and _linked(base.root, known, root):
                        parts += [known, taken.save_changes(known, self._image, root, f"{path}-changes")]
                    else:
                        parts.append(known := taken.save(self._image, root, path))
                    full[path] = known
                Manifest(rank, self._of, self._tables, parts).write(root)
        return Base(root, full)

    def close(self) -> None:
        """Gives back the memory it takes."""
        self._image.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tell_failure(folder: str | Path, rank: int, why: str) -> None:
    """Lets whoever waits for this rank's tables below `folder` know that they will not come."""
    with suppress(OSError):
        (Path(folder) / f"{_FAILED}{rank}").write_text(why)


def wait_for_ranks(folder: str | Path) -> None:
    """Returns when every rank of the checkpoint whose tables are being written below `folder`, this process' among
    them, has written its own: a rank's manifest comes last.

    Raises:
      UserError: a rank could not.
    """
    root = Path(folder)
    first = next(iter(sorted(root.glob(f"{ANY_RANK}/{MANIFEST}"))))
    ranks = Manifest.read(first).ranks
    while not all((root / rank_folder(rank) / MANIFEST).exists() for rank in range(ranks)):
        for told in root.glob(f"{_FAILED}*"):
            raise UserError(f"{told.name.replace(_FAILED, 'rank ')} could not write its tables: {told.read_text()}")
        time.sleep(_SECONDS_A_LOOK)


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
    shards = layer.shards()
    for shard in shards:
        restore, change = static_tables.restore if shard.static else dynamic_tables.restore, changes[shard.config.name]
        restore(shard, root, saved.parts_of(shard.config.name), change.anew if change else ())
        if change:
            change.begin_slots(shard)
    layer.take(shards)


def verify_tables(folder: str | Path) -> None:
    """Reads everything that `save_tables` wrote.

    Raises:
      UserError: a file is missing, truncated or damaged (it is named).
    """
    root = Path(folder)
    for part in Saved.read(root).parts:
        for array in part.arrays.values():
            Reader(root, array).check()


def _linked(base: Path, part: SavedPart, root: Path) -> bool:
    """Gives a part's files a second name below `root`; false where the disk cannot, or they are gone."""
    try:
        for array in part.arrays.values():
            for name in array.files:
                target = root / array.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(base / array.path / name, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        for array in part.arrays.values():
            shutil.rmtree(root / array.path, ignore_errors=True)
        why = f"{base}: its files cannot have a second name ({error.strerror})"
        say_once(f"{why}: all rows are written, not the changed ones alone")
        return False
    return True


def _own(layer: ShardedEmbedding) -> list[HeldShard]:
    """The shards that this process saves: what every rank holds is rank 0's to save."""
    return [shard for shard in layer.shards() if not shard.replicated or shard.rank == 0]


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
