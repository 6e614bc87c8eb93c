"""Whether a tree's codes are better laid out by what queries look at: measured on a sample, at the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from retrieval.index.recall import exact_search, recall_of
from retrieval.index.searcher import Searcher
from retrieval.index.setting import CODES, Effort, TreeSetting

SAMPLE = 50_000  # vectors
_JUDGING = 256  # queries
_NEIGHBOURS = 100
_SEARCHED = 0.1  # of the leaves


def measured_codes(vectors: np.ndarray, queries: np.ndarray, setting: TreeSetting) -> int | None:
    """As many codes as `setting` has by its dims_per_block, or None where those, over the dimensions as they are, find
    no less: of the exact top 100, with a tenth of the leaves searched and twice as many vectors reordered.

    vectors: [N, D], a sample; queries: [Q, D], of which the first few hundred, half of them at most, judge and the
    others teach: a basis learned from few finds those few whatever it does to all others.
    """
    codes = -(-vectors.shape[1] // setting.dims_per_block)
    judging = min(_JUDGING, len(queries) // 2)
    if len(vectors) < CODES or codes < 2 or not judging:
        return None
    judged = np.ascontiguousarray(queries[:judging], np.float32)
    wanted, _ = exact_search(vectors, judged, min(_NEIGHBOURS, len(vectors)))
    found = {}
    for tried in (None, codes):
        tree = replace(setting, codes=tried, leaves=max(round(len(vectors) ** 0.5), 1)).fitted(len(vectors))
        searcher = Searcher.build_tree(vectors, tree, queries=queries[judging:])
        effort = Effort(max(round(_SEARCHED * tree.leaves), 1), 2 * wanted.shape[1])
        found[tried] = recall_of(searcher.search(judged, wanted.shape[1], effort)[0], wanted)
    return codes if found[codes] > found[None] else None
