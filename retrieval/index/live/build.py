"""The tree of an index that changes, built from its items as they are and tuned on what was asked lately."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrieval.index.exact import exact_top
from retrieval.index.live.config import LiveConfig
from retrieval.index.recall import recall_by_leaves, tune_leaves_to_search
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting

Builder = Callable[[np.ndarray, np.ndarray | None], Searcher]

_TUNED_ON = 256
_TUNED_AT = 100


def tuned_builder(config: LiveConfig, setting: TreeSetting | None = None) -> Builder:
    """Builds trees (vectors [N, D], queries [Q, D] or None) -> Searcher of a setting, by default the usual one of their
    size, with as many leaves searched as reach `config.target_recall` of the exact top 100 on the queries (without any:
    on a sample of the vectors)."""

    def build(vectors: np.ndarray, queries: np.ndarray | None) -> Searcher:
        chosen = (setting or TreeSetting.usual(len(vectors))).fitted(len(vectors))
        built = Searcher.build_tree(vectors, chosen, config.build_threads, queries)
        searcher = Searcher(built.native, built.dim, built.setting, config.search_threads, built.basis)
        if queries is None:
            queries = vectors[:: max(len(vectors) // _TUNED_ON, 1)][:_TUNED_ON]
        numbers = np.arange(len(vectors))
        wanted, _ = exact_top(vectors, None, numbers, queries, min(_TUNED_AT, len(vectors)), None)
        recall = recall_by_leaves(searcher, queries, wanted)
        leaves_to_search, _ = tune_leaves_to_search(recall, chosen.leaves, config.target_recall)
        searcher.setting = chosen.with_effort(Effort(leaves_to_search, chosen.reorder))
        return searcher

    return build
