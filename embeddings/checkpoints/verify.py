"""Every file of saved tables read, and every one that is damaged named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from embeddings.checkpoints import arrays
from embeddings.checkpoints.manifest import MANIFEST, Manifest, Saved, rank_folder, rank_folders
from foundation.errors import UserError


def damages(folder: str | Path, advance: Callable[[int], None] = lambda bytes_read: None) -> dict[Path, str]:
    """Reads everything that `save_tables` wrote, and goes on where something is damaged: by file, a message that names
    it; {}: all is whole. advance: told how many bytes were read.

    Raises:
      UserError: there are no tables, or they were written by a newer version.
    """
    root = Path(folder)
    manifests, found = [], {}
    for own in rank_folders(root):
        try:
            manifests.append(Manifest.read(own / MANIFEST))
        except UserError as error:
            if "newer version" in error.message:
                raise
            found[own / MANIFEST] = error.message
    for rank in range(max((manifest.ranks for manifest in manifests), default=0)):
        if not (root / rank_folder(rank)).is_dir():
            found[root / rank_folder(rank)] = f"{root / rank_folder(rank)}: this part of the checkpoint is missing."
    if not found:
        try:
            Saved.read(root)
        except UserError as error:
            found[root] = error.message
    for manifest in manifests:
        for part in manifest.parts:
            for array in part.arrays.values():
                found.update(arrays.damages(root, array, advance))
    return found


def size_of(folder: str | Path) -> int:
    """Bytes of everything that readable manifests name."""
    total = 0
    for own in rank_folders(Path(folder)):
        try:
            parts = Manifest.read(own / MANIFEST).parts
        except UserError:
            continue
        total += sum(array.bytes for part in parts for array in part.arrays.values())
    return total
