"""An index of several shards: a search fans out over them and merges what they find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError, damaged
from foundation.files import file_entry, json_digest, read_json
from retrieval.index.parts import check_entries
from retrieval.index.searcher import MANIFEST as SEARCHER_MANIFEST
from retrieval.index.searcher import Searcher, usable_cores
from retrieval.index.setting import Effort, TreeSetting
from retrieval.index.sharded.shard import IDS

MANIFEST = "sharded.json"
_FORMAT = 1
_REMEDY = "Build the index again."


@dataclass(frozen=True)
class ShardedFacts:
    """What a sharded index is. setting: of each shard's tree; None when exact. effort: of each shard, in a search that
    does not say otherwise. recall: measured at build against exact search for `recall_at` neighbours; those are 0 where
    it was not measured."""

    size: int
    dim: int
    shards: tuple[str, ...]
    setting: TreeSetting | None
    effort: Effort | None
    recall: float
    recall_at: int
    made_from: dict[str, Any]


class ShardedIndex:
    """Maximum inner product search over ids [N] int64. Searches may run on several threads at once."""

    def __init__(self, shards: Sequence[tuple[np.ndarray, Searcher]], facts: ShardedFacts) -> None:
        """shards: (ids [n] int64, a searcher over as many rows) of each."""
        self.facts = facts
        self._shards = list(shards)
        self._pool = ThreadPoolExecutor(max(min(len(self._shards), usable_cores()), 1)) if len(shards) > 1 else None

    @property
    def size(self) -> int:
        return self.facts.size

    @property
    def dim(self) -> int:
        return self.facts.dim

    def search(self, queries: np.ndarray, k: int, effort: Effort | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` ids for each query, best first.

        queries: [Q, D] float32. effort: of each shard (default: the index's). Returns (ids [Q, k] int64, scores [Q, k]
        float32); -1 and -inf fill up where fewer than k are found. Equal scores are in the order of their ids.
        """
        effort = effort or self.facts.effort

        def found(shard: tuple[np.ndarray, Searcher]) -> tuple[np.ndarray, np.ndarray]:
            ids, searcher = shard
            rows, scores = searcher.search(queries, k, None if searcher.exact else effort)
            return np.where(rows < 0, -1, ids[rows]), scores

        answers = (
            [found(shard) for shard in self._shards] if self._pool is None else self._pool.map(found, self._shards)
        )
        return merged(list(answers), k)

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> ShardedIndex:
        """Reads an index that `headrace index build` made. threads: of all shards together (default: all usable cores).

        Raises:
          UserError: it is missing, or a file of it is missing or not the one that was written.
        """
        path = Path(path)
        facts = cls.check(path)
        each = max((threads or usable_cores()) // len(facts.shards), 1)
        shards = []
        for name in facts.shards:
            searcher = Searcher.load(path / name, each)  # sees to the shard's files, the ids' too
            shards.append((np.load(path / name / IDS, allow_pickle=False), searcher))
        return cls(shards, facts)

    @staticmethod
    def check(path: Path) -> ShardedFacts:
        """Sees that the index's manifest and those of its shards are whole; `load` sees to the shards' files. Raises as
        `load` does."""
        document = read_json(path / MANIFEST, "the index's manifest")
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise UserError(f"{path / MANIFEST}: not a sharded index of format {_FORMAT}.", _REMEDY)
        with damaged(path / MANIFEST, _REMEDY):
            if document["digest"] != json_digest(document["facts"]):
                raise ValueError("it is not what was written")
            kept = document["facts"]
            entries = kept.pop("shards")
            setting = None if kept["setting"] is None else TreeSetting(**kept.pop("setting"))
            effort = None if kept["effort"] is None else Effort(**kept.pop("effort"))
            kept = {**kept, "setting": setting, "effort": effort}
            facts = ShardedFacts(**kept, shards=tuple(entries))
        check_entries(path, {f"{name}/{SEARCHER_MANIFEST}": entry for name, entry in entries.items()}, _REMEDY)
        return facts


def write_sharded_manifest(folder: Path, facts: ShardedFacts) -> None:
    """Writes what `ShardedIndex.check` reads beside the shards."""
    entries = {name: file_entry(folder / name / SEARCHER_MANIFEST) for name in facts.shards}
    kept = {**asdict(facts), "shards": entries}
    document = {"format": _FORMAT, "facts": kept, "digest": json_digest(kept)}
    (folder / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")


def merged(answers: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of several answers (ids [Q, any] int64, scores [Q, any]), equal scores by id. Exact: whatever is among
    the best k of all is among the best k of its own answer."""
    ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*answers, strict=True))
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
