"""How an index that changes is kept: when vectors move into the tree, when recall is judged, when it is built anew."""

from __future__ import annotations

from pydantic import Field

from foundation.config import Config


class LiveConfig(Config):
    """tree_from: with fewer items than this there is no tree; all are searched, exactly. fold_at: fresh vectors, or
    tombstones in the tree, that start their move into, or out of, the tree. target_recall: of the exact top 100, what
    the search effort of a tree is tuned to when it is built. shadow_rate: share of live queries whose answer is judged
    by exact search. shadow_window: judged queries that recall is the mean of. recall_floor: below it, measured on at
    least recall_least queries, the tree is built anew. rebuild_share: of items fresh or dead, what a tree that cannot
    be changed in place (SOAR) is built anew at. changed_between: share of the items that changes between two trees
    built because of recall, so that a floor out of reach does not keep a core busy. build_threads: of building a tree.
    search_threads: of one batch of queries (None: all usable cores).
    """

    tree_from: int = Field(20_000, ge=1_000)
    fold_at: int = Field(512, ge=1)
    target_recall: float = Field(0.95, gt=0, le=1)
    shadow_rate: float = Field(0.002, ge=0, le=1)
    shadow_window: int = Field(500, ge=1)
    recall_floor: float = Field(0.9, ge=0, le=1)
    recall_least: int = Field(100, ge=1)
    rebuild_share: float = Field(0.05, gt=0, le=1)
    changed_between: float = Field(0.05, ge=0, le=1)
    build_threads: int = Field(1, ge=1)
    search_threads: int | None = Field(None, ge=1)
