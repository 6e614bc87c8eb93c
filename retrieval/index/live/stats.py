"""What an index that changes says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Updated:
    """What an update did. items: given. replaced: that were there before. unknown: to be deleted, but not there."""

    items: int
    replaced: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class LiveStats:
    """size: items. fresh: vectors beside the tree, what has died among them included. tombstones: deleted or replaced
    vectors still in the tree. tree_size: its rows. upserts, deletes, unknown_deletes: items since it was made or
    loaded. trees_built; rebalances: those of them built because recall fell. recall, recall_of, unjudged: see
    `shadow.Recall`. failure: what went wrong in the background last, if something did; it is tried again."""

    size: int
    fresh: int
    tombstones: int
    tree_size: int
    upserts: int
    deletes: int
    unknown_deletes: int
    trees_built: int
    rebalances: int
    recall: float | None
    recall_of: int
    unjudged: int
    failure: str | None
