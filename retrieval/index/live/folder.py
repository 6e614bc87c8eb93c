"""A live index as a folder: items, attributes and tree of one moment.

```
live.json          what it is, and every other file with its digest
ids.npy            [N] int64           vectors.npy  [N, D] float32        attributes.parquet  N rows, where there are
tree/              a `Searcher`        tree_items.npy  [rows] int64: which item each of its rows is; -1: a tombstone
```
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from foundation.errors import UserError, damaged
from foundation.files import atomic_directory, json_digest, read_json
from retrieval.index.items.attributes import Attributes
from retrieval.index.items.slots import Slots, View
from retrieval.index.items.tree import LiveTree
from retrieval.index.live.state import LiveState
from retrieval.index.parts import check_entries, entries_of
from retrieval.index.searcher import Searcher

MANIFEST = "live.json"
IDS, VECTORS, ATTRIBUTES = "ids.npy", "vectors.npy", "attributes.parquet"
_TREE, _TREE_ITEMS = "tree", "tree_items.npy"
_FORMAT = 1
_REMEDY = "Save the index again, or go back to an earlier version."
_ROWS_AT_ONCE = 1 << 16


def save_live(path: Path, dim: int, view: View, tree: LiveTree | None) -> None:
    """Writes a view, whose slots stay what they are meanwhile, and its tree, which is not changed meanwhile."""
    slots = np.flatnonzero(view.visible_mask())
    with atomic_directory(path) as folder:
        np.save(folder / IDS, view.ids[slots])
        vectors = np.lib.format.open_memmap(folder / VECTORS, "w+", np.float32, (len(slots), dim))
        for start in range(0, len(slots), _ROWS_AT_ONCE):
            vectors[start : start + _ROWS_AT_ONCE] = view.vectors[slots[start : start + _ROWS_AT_ONCE]]
        vectors.flush()
        if view.attributes is not None:
            pq.write_table(view.attributes.of(slots), folder / ATTRIBUTES)
        if tree is not None:
            tree.searcher.save(folder / _TREE)
            items = np.full(view.used, -1, np.int64)
            items[slots] = np.arange(len(slots))
            np.save(folder / _TREE_ITEMS, items[tree.slots])
        facts: dict[str, Any] = {"format": _FORMAT, "dim": dim, "size": len(slots), "tree": tree is not None}
        facts["files"] = entries_of(folder)
        (folder / MANIFEST).write_text(json.dumps({**facts, "digest": json_digest(facts)}, indent=2) + "\n")


def check_live(path: Path) -> tuple[int, int, bool]:
    """Sees that a folder is whole, without loading it; returns (dim, size, whether there is a tree).

    Raises:
      UserError: it is missing, or a file of it is missing or not the one that was written.
    """
    facts = read_json(path / MANIFEST, "the index's manifest")
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise UserError(f"{path / MANIFEST}: not a live index of format {_FORMAT}.", _REMEDY)
    with damaged(path / MANIFEST, _REMEDY):
        if facts.pop("digest") != json_digest(facts):
            raise ValueError("it is not what was written")
        files = dict(facts["files"])
    check_entries(path, files, _REMEDY)
    return int(facts["dim"]), int(facts["size"]), bool(facts["tree"])


def load_live(path: Path, threads: int | None) -> tuple[int, LiveState]:
    """(dim, the state that was saved). Raises as `check_live`."""
    dim, size, has_tree = check_live(path)
    slots = Slots(dim, size + size // 8)
    attributes = None
    if (path / ATTRIBUTES).is_file():
        attributes = pq.read_table(path / ATTRIBUTES)
        slots.begin_attributes(Attributes(Attributes.schema_of(attributes), slots.capacity))
    ids, vectors = np.load(path / IDS, allow_pickle=False), np.load(path / VECTORS, mmap_mode="r", allow_pickle=False)
    slots.put(ids, vectors, attributes, fresh=False)
    if not has_tree:
        slots.set_fresh(np.arange(size))
        return dim, LiveState(slots, None)
    items = np.load(path / _TREE_ITEMS, allow_pickle=False)
    dead = slots.add_dead(int((items < 0).sum()))
    items[items < 0] = dead
    tree = LiveTree(Searcher.load(path / _TREE, threads), items)
    tree.dead = dead.tolist()
    slots.set_fresh(np.flatnonzero(~tree.holds(np.arange(size))))
    return dim, LiveState(slots, tree)
