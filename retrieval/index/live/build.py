"""The tree of an index that changes, built from its items as they are and tuned on what was asked lately."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from retrieval.index.basis import not_judged, spread
from retrieval.index.codes import SAMPLE, measured_codes
from retrieval.index.exact import exact_top
from retrieval.index.live.config import LiveConfig
from retrieval.index.recall import recall_by_leaves, tune_leaves_to_search
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting

Builder = Callable[[np.ndarray, np.ndarray | None], Searcher]

_TUNED_ON, _FEWEST = 256, 64
_TUNED_AT = 100


def tuned_builder(config: LiveConfig, setting: TreeSetting | None = None) -> Builder:
    """Builds trees (vectors [N, D], queries [Q, D] or None) -> Searcher of a setting, with as many leaves searched as
    reach `config.target_recall` of the exact top 100 on the first of the queries (without any, or where they are too
    few to tell of others: on a sample of the vectors). By default the setting is the usual one of their size, its codes
    laid out by what the queries look at where that is measured to find more (`measured_codes`)."""

    def build(vectors: np.ndarray, queries: np.ndarray | None) -> Searcher:
        if queries is not None and len(queries) < _FEWEST:
            queries = None
        chosen = (setting or TreeSetting.usual(len(vectors))).fitted(len(vectors))
        if setting is None and queries is not None:
            chosen = replace(chosen, codes=measured_codes(spread(vectors, SAMPLE), queries, chosen))
        asked = spread(vectors, _TUNED_ON) if queries is None else queries[:_TUNED_ON]
        taught = None if queries is None else not_judged(queries, _TUNED_ON)
        built = Searcher.build_tree(vectors, chosen, config.build_threads, taught)
        searcher = Searcher(built.native, built.dim, built.setting, config.search_threads, built.basis)
        numbers = np.arange(len(vectors))
        wanted, _ = exact_top(vectors, None, numbers, asked, min(_TUNED_AT, len(vectors)), None)
        recall = recall_by_leaves(searcher, asked, wanted)
        leaves_to_search, _ = tune_leaves_to_search(recall, chosen.leaves, config.target_recall)
        searcher.setting = chosen.with_effort(Effort(leaves_to_search, chosen.reorder))
        return searcher

    return build
