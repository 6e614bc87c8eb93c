"""What a live index is compared with: a dict of vectors, searched by looking at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrieval.index.searcher import Searcher
from retrieval.index.setting import TreeSetting


def exact_builder(vectors: np.ndarray, _: np.ndarray | None) -> Searcher:
    return Searcher.build_exact(vectors, threads=1)


def tree_builder(
    leaves_to_search: int = 20, leaves: int = 40, reorder: int = 300, **setting
) -> Callable[..., Searcher]:
    def build(vectors: np.ndarray, _: np.ndarray | None) -> Searcher:
        return Searcher.build_tree(vectors, TreeSetting(leaves, leaves_to_search, reorder, **setting), threads=1)

    return build


def brute_force(
    items: dict[int, np.ndarray], queries: np.ndarray, k: int, allowed: Callable[[int, int], bool] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(ids [Q, k], scores [Q, k]) of what `allowed(query, id)` lets through, ties by id."""
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for q, query in enumerate(queries):
        known = np.array(sorted(i for i in items if allowed is None or allowed(q, i)), np.int64)
        if len(known):
            values = np.stack([items[i] for i in known.tolist()]) @ query
            best = np.argsort(-values, kind="stable")[:k]
            ids[q, : len(best)], scores[q, : len(best)] = known[best], values[best]
    return ids, scores


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([np.isin(want[want >= 0], have).mean() for want, have in zip(wanted, found, strict=True)]))
