"""The least effort of a sharded index that reaches a recall, measured with one shard in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.index.recall import TopK, recall_of
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting
from retrieval.index.sharded.index import merged
from retrieval.index.sharded.shard import IDS
from retrieval.index.sharded.trained import JUDGING
from retrieval.index.sources.source import Source, items_of
from retrieval.index.tuner.measure import efforts

NEIGHBOURS = 100  # that recall is measured at
_STEP = 1.3  # from one number of leaves to the next that is tried


def total_effort(
    source: Source, shards: Sequence[Path], setting: TreeSetting, queries: np.ndarray, target: float
) -> tuple[Effort, float, int]:
    """(the least effort of each shard whose recall reaches `target`, its recall, the neighbours it is measured at).

    queries: [Q, D]; the first few hundred are used. All leaves where even they fall short.
    """
    queries = np.ascontiguousarray(queries[:JUDGING], np.float32)
    k = min(NEIGHBOURS, source.size)
    wanted = exact_ids(source, queries, k)
    ladder = leaves_ladder(setting.leaves)
    answers: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {leaves: [] for leaves in ladder}
    for shard in shards:
        searcher = Searcher.load(shard)
        ids = np.load(shard / IDS, allow_pickle=False)
        for leaves in ladder:
            effort = None if searcher.exact else Effort(leaves, setting.reorder)
            rows, scores = searcher.search(queries, k, effort)
            answers[leaves].append((np.where(rows < 0, -1, ids[rows]), scores))
    recalls = {leaves: recall_of(merged(parts, k)[0], wanted) for leaves, parts in answers.items()}
    enough = next((leaves for leaves in ladder if recalls[leaves] >= target), ladder[-1])
    return Effort(enough, setting.reorder), recalls[enough], k


def exact_ids(source: Source, queries: np.ndarray, k: int) -> np.ndarray:
    """The ids of the k largest inner products [Q, k] int64, block by block of the source."""
    best = TopK(len(queries), k)
    for ids, vectors in items_of(source):
        best.see(queries @ vectors.T, ids)
    return best.ids


def leaves_ladder(leaves: int) -> list[int]:
    """Numbers of leaves to try: every one up to a few, then each a third more than the one before; all at last."""
    return efforts(1, leaves, _STEP)
