"""What a rank wrote: its manifest, and what all of them say together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from embeddings.checkpoints.arrays import REMEDY, SavedArray
from embeddings.config import TableConfig
from embeddings.sharding.sharded import BUCKETS
from foundation.errors import UserError, damaged
from foundation.files import json_digest, write_json

FORMAT = 1
_RANK = re.compile(r"rank-(\d+)$")
MANIFEST = "manifest.json"
ANY_RANK = "rank-*"
_LONGEST_NAME = 100


@dataclass(frozen=True)
class SavedTable:
    """What a table must agree in with the one that is restored, but for the optimizer, which may be another."""

    name: str
    vocabulary_size: int | None
    dim: int
    optimizer: str

    @classmethod
    def of(cls, config: TableConfig) -> SavedTable:
        return cls(config.name, config.vocabulary_size, config.dim, type(config.optimizer).__name__)


@dataclass(frozen=True, eq=False)
class SavedPart:
    """A part of a table, as one rank wrote it.

    columns: [start, stop) of the table. buckets: [b] int64, rising: whose ids it holds. hot: it holds the ids that it
    lists, whatever their bucket. updates: the table's, made so far. counts: a dynamic table's, by name. bucket_bits:
    of its id table. arrays: by name; their layout: `static_tables`, `dynamic_tables`. changes: the ids it lists are
    those that changed since the part before it, `hot` in that it has the truth of them.
    """

    table: str
    columns: tuple[int, int]
    buckets: np.ndarray
    hot: bool
    updates: int
    arrays: dict[str, SavedArray]
    counts: dict[str, int] = field(default_factory=dict)
    bucket_bits: int = 0
    changes: bool = False

    def document(self) -> dict[str, Any]:
        held = np.zeros(BUCKETS, bool)
        held[self.buckets] = True
        return {
            "table": self.table,
            "columns": list(self.columns),
            "buckets": np.packbits(held).tobytes().hex(),
            "hot": self.hot,
            "updates": self.updates,
            "arrays": {name: array.document() for name, array in self.arrays.items()},
            "counts": self.counts,
            "bucket_bits": self.bucket_bits,
            "changes": self.changes,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> SavedPart:
        start, stop = document["columns"]
        held = np.unpackbits(np.frombuffer(bytes.fromhex(document["buckets"]), np.uint8))
        arrays = {name: SavedArray.from_document(array) for name, array in document["arrays"].items()}
        read = {"columns": (start, stop), "buckets": np.flatnonzero(held), "arrays": arrays}
        return cls(**{**document, **read})


@dataclass(frozen=True)
class Manifest:
    """One rank's."""

    rank: int
    ranks: int
    tables: list[SavedTable]
    parts: list[SavedPart]

    def write(self, root: Path) -> None:
        content = {
            "format": FORMAT,
            "rank": self.rank,
            "ranks": self.ranks,
            "buckets": BUCKETS,
            "tables": [vars(table) for table in self.tables],
            "parts": [part.document() for part in self.parts],
        }
        write_json(root / rank_folder(self.rank) / MANIFEST, {"content": content, "digest": json_digest(content)})

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises UserError: it is missing, damaged, or of a newer version."""
        if not path.is_file():
            raise UserError(f"{path}: this checkpoint file is missing.", REMEDY)
        with damaged(path, REMEDY):
            document = json.loads(path.read_bytes())
            content = document["content"]
            if content["format"] > FORMAT:
                raise UserError(
                    f"{path}: written by a newer version (format {content['format']}; this one reads {FORMAT}).",
                    "Use that version, or train again in a new run directory.",
                )
            if document["digest"] != json_digest(content):
                raise UserError(f"{path}: this checkpoint file is damaged: its digest is another.", REMEDY)
            if content["buckets"] != BUCKETS:
                raise UserError(f"{path}: {content['buckets']} buckets; this version has {BUCKETS}.", REMEDY)
            tables = [SavedTable(**table) for table in content["tables"]]
            parts = [SavedPart.from_document(part) for part in content["parts"]]
            return cls(content["rank"], content["ranks"], tables, parts)


@dataclass(frozen=True)
class Saved:
    """All ranks' manifests as one. ranks: how many saved it."""

    root: Path
    ranks: int
    tables: dict[str, SavedTable]
    parts: list[SavedPart]

    @classmethod
    def read(cls, root: Path) -> Saved:
        """Raises UserError: a rank's manifest is missing or damaged, or they are not of one checkpoint."""
        found = rank_folders(root)
        manifests = [Manifest.read(entry / MANIFEST) for entry in found]
        ranks = manifests[0].ranks
        for rank in range(ranks):
            if not (root / rank_folder(rank)).is_dir():
                raise UserError(f"{root / rank_folder(rank)}: this part of the checkpoint is missing.", REMEDY)
        for entry, manifest in zip(found, manifests, strict=True):
            alike = (manifest.ranks, manifest.tables) == (ranks, manifests[0].tables)
            if not alike or entry.name != rank_folder(manifest.rank) or manifest.rank >= ranks:
                raise UserError(f"{entry / MANIFEST}: not of the same checkpoint as {found[0] / MANIFEST}.", REMEDY)
        tables = {table.name: table for table in manifests[0].tables}
        return cls(root, ranks, tables, [part for manifest in manifests for part in manifest.parts])

    def parts_of(self, table: str) -> list[SavedPart]:
        return [part for part in self.parts if part.table == table]


def table_folder(number: int, name: str) -> str:
    """The folder of a table below another: its place among the tables, and its name."""
    return f"{number:04d}-{quote(name, safe='')[:_LONGEST_NAME]}"


def rank_folders(root: Path) -> list[Path]:
    """Those that are there.

    Raises:
      UserError: there is none.
    """
    found = sorted(entry for entry in root.glob(ANY_RANK) if _RANK.search(entry.name)) if root.is_dir() else []
    if not found:
        raise UserError(f"{root}: there are no tables here.", "Name a folder that tables were saved in.")
    return found


def rank_folder(rank: int) -> str:
    return f"rank-{rank:05d}"
