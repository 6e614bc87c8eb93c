"""An index that lives: items come, change and go while it is searched."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from foundation.background import Background
from foundation.errors import UserError, first_line
from retrieval.index.checks import checked_ids, checked_items, checked_queries
from retrieval.index.exact import Denied
from retrieval.index.filters.conditions import Conditions
from retrieval.index.filters.filter import Filter
from retrieval.index.filters.restricted import Restriction, search_restricted
from retrieval.index.items.attributes import Attributes
from retrieval.index.items.slots import Slots
from retrieval.index.live.build import Builder, tuned_builder
from retrieval.index.live.config import LiveConfig
from retrieval.index.live.folder import load_live, save_live
from retrieval.index.live.shadow import ShadowRecall
from retrieval.index.live.state import LiveState
from retrieval.index.live.stats import LiveStats, Updated
from retrieval.index.setting import Effort

_REST = 1.0  # so many times as long as searches were kept waiting are they then left alone
_JUDGING_REST = 9.0  # likewise after a judgement of recall: a tenth of a core at most
_IDLE = 0.2  # seconds between looks at what there is to do


class LiveIndex:
    """Maximum inner product search over items with ids of int64, which any threads may search, and any may update.

    A search that begins when an update has returned sees all of it; one under way sees all of it or nothing of it. So
    a deleted id is gone from the very next answer, and an upserted one is searched for by it. New vectors are searched
    exactly, beside the tree, until a thread in the background moves them into it a few at a time. That thread also
    judges recall on a sample of the queries (those without a filter) and, when it falls below the floor, builds another
    tree beside this one and swaps. Close it, or use it as a context manager, to end the thread.
    """

    def __init__(
        self,
        dim: int,
        config: LiveConfig | None = None,
        schema: pa.Schema | None = None,
        builder: Builder | None = None,
        background: bool = True,
    ) -> None:
        """Without items. dim: of the vectors. schema: of attributes (bool, int64, float64, string), for filters.
        builder: makes the tree (default: `tuned_builder`). background: False leaves all upkeep to `maintain`."""
        slots = Slots(dim, 0)
        if schema is not None:
            slots.begin_attributes(Attributes(schema, slots.capacity))
        self._begin(dim, config or LiveConfig(), LiveState(slots, None), builder)
        if background:
            self.begin_upkeep()

    def _begin(self, dim: int, config: LiveConfig, state: LiveState, builder: Builder | None) -> None:
        self.dim, self.config, self.state = dim, config, state
        self._builder = builder or tuned_builder(config)
        self._shadow = ShadowRecall(config.shadow_rate, config.shadow_window)
        self._conditions = Conditions()
        self._building = threading.Lock()
        self._upserts = self._deletes = self._unknown = self._trees_built = self._rebalances = 0
        self._changed_since = state.view.size  # items, since a tree was last built because of recall
        self._failure: str | None = None
        self._closed, self._work = threading.Event(), threading.Event()
        self._upkeep: Background | None = None

    @classmethod
    def build(
        cls,
        ids: np.ndarray,
        vectors: np.ndarray,
        config: LiveConfig | None = None,
        attributes: pa.Table | Mapping[str, Any] | None = None,
        builder: Builder | None = None,
        queries: np.ndarray | None = None,
        background: bool = True,
    ) -> LiveIndex:
        """Over items ids [N], vectors [N, D]. attributes: N rows. queries: [Q, D], what the tree is tuned on.

        Raises:
          UserError: as `upsert` and `rebuild`.
        """
        shape = np.shape(vectors)
        schema = None
        if attributes is not None:
            attributes = attributes if isinstance(attributes, pa.Table) else pa.table(dict(attributes))
            schema = Attributes.schema_of(attributes)
        index = cls(shape[1] if len(shape) == 2 else 0, config, schema, builder, background=False)
        index.upsert(ids, vectors, attributes)
        index._upserts = 0
        if index.size >= index.config.tree_from:
            index.rebuild(queries)
        if background:
            index.begin_upkeep()
        return index

    def save(self, folder: str | Path) -> None:
        """Writes the items, their attributes and the tree as they are at one moment as a folder, whole or not at all,
        while searches and updates go on. What is updated later is not in it: after a crash, give it again (upserts
        and deletes may be repeated), or save the oftener.

        Searches of this process wait while ScaNN writes its tree (about 1.5 s for 1 M x 64).
        """
        with self.state.changing, self.state.pinned() as view:  # only upkeep waits
            save_live(Path(folder), self.dim, view, self.state.tree)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        config: LiveConfig | None = None,
        builder: Builder | None = None,
        background: bool = True,
    ) -> LiveIndex:
        """Reads an index that `save` wrote.

        Raises:
          UserError: it is missing, or a file of it is missing or not the one that was written.
        """
        config = config or LiveConfig()
        dim, state = load_live(Path(folder), config.search_threads)
        index = cls.__new__(cls)
        index._begin(dim, config, state, builder)
        if background:
            index.begin_upkeep()
        return index

    @property
    def size(self) -> int:
        """Items."""
        return self.state.view.size

    def upsert(
        self, ids: np.ndarray, vectors: np.ndarray, attributes: pa.Table | Mapping[str, Any] | None = None
    ) -> Updated:
        """Adds items, or replaces them where their ids are there, in one step.

        ids: [n] integers; vectors: [n, D]; attributes: n rows with every column, where the index has any.

        Raises:
          UserError: an id occurs twice, a vector is not finite or of another dimension, attributes do not fit. Nothing
            is changed then.
        """
        ids, vectors = checked_items(ids, vectors, self.dim)
        known = self.state.view.attributes
        if known is not None:
            attributes = known.checked(attributes, len(ids))
        elif attributes is not None:
            raise UserError("the index: attributes for an index that has none.", "Give it a schema when it is made.")
        if not len(ids):
            return Updated(0)
        with self.state.writing:
            replaced = self.state.put(ids, vectors, attributes)
            self._upserts += len(ids)
            self._changed_since += len(ids)
        self._work.set()
        return Updated(len(ids), replaced=replaced)

    def delete(self, ids: np.ndarray) -> Updated:
        """Takes items away, in one step; ids that are not there are counted.

        Raises:
          UserError: an id occurs twice. Nothing is changed then.
        """
        ids = checked_ids(ids)
        if not len(ids):
            return Updated(0)
        with self.state.writing:
            gone = self.state.drop(ids)
            self._deletes += gone
            self._unknown += len(ids) - gone
            self._changed_since += gone
        self._work.set()
        return Updated(len(ids), unknown=len(ids) - gone)

    def search(
        self, queries: np.ndarray, k: int, filter: Filter | None = None, effort: Effort | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` items for each query, best first, ties by id (of ties for the last places, any).

        queries: [Q, D] float32. filter: what an answer may hold. effort: instead of the tree's own. Returns
        (ids [Q, k] int64, scores [Q, k] float32). Where fewer than k are allowed, -1 and -inf fill up: an answer of
        `(scores > -inf).sum(axis=1)` items. (Where as many are allowed, as many are returned.)

        Raises:
          UserError: queries of another dimension or not finite, k below 1, a filter that does not fit.
        """
        queries = checked_queries(queries, k, self.dim)
        asked = Filter() if filter is None else filter.checked(len(queries))
        with self.state.reading.shared():
            restriction = self._restriction(asked)
            view = restriction.view
            slots, scores = search_restricted(self.state.tree, queries, k, restriction, effort)
            ids = np.where(slots >= 0, view.ids[slots], -1)
            if filter is None and self._shadow.sample(queries, slots, view):
                self.state.pin()
                self._work.set()
        return ids, scores

    def _restriction(self, asked: Filter) -> Restriction:
        view, allowed = self.state.view, None
        if asked.allow is not None:
            with self.state.writing:  # so that the slots are those of this view
                view, slot_of = self.state.view, self.state.slots.slot_of
                slots = np.array([slot_of.get(i, -1) for i in asked.allow.values.tolist()], np.int64)
            allowed = asked.allow.map_values(slots)
        mask = None
        if asked.where is not None:
            mask = self._conditions.mask(asked.where, view)
        return Restriction(view, mask, None if asked.deny is None else Denied(asked.deny), allowed)

    def rebuild(self, queries: np.ndarray | None = None) -> None:
        """Builds another tree of the items as they are, tuned on queries [Q, D] (default: those sampled lately), and
        swaps it in; searches and updates go on meanwhile.

        Raises:
          UserError: there are too few items for a tree; queries of another dimension or not finite.
        """
        if queries is not None:
            queries = checked_queries(queries, 1, self.dim)
        with self._building, self.state.pinned() as view:
            slots = np.flatnonzero(view.visible_mask())
            if not len(slots):
                raise UserError("the index: there is no item to build a tree of.", "Upsert some first.")
            searcher = self._builder(view.vectors[slots], self._shadow.queries() if queries is None else queries)
            self.state.swap(searcher, slots)
            self._trees_built += 1
            self._shadow.forget()

    def maintain(self, seconds: float = 0.0) -> bool:
        """Does some of what there is to do: folds fresh vectors and tombstones, judges a sampled answer, builds a tree
        where one is due. Returns whether anything was done. The background thread calls it; `seconds` is how long it
        may rest in between."""
        return self._fold(seconds) | self._judge(seconds) | self._build_if_due()

    def flush(self) -> None:
        """Folds all there is to fold, now."""
        while self._to_fold() and self.state.fold():
            pass

    def _to_fold(self) -> int:
        view, tree = self.state.view, self.state.tree
        if tree is not None and tree.changes_in_place:
            return len(view.fresh) + len(tree.dead)
        there = view.size if tree is None else view.size - (tree.size - len(tree.dead))
        return len(view.fresh) - there

    def _fold(self, seconds: float) -> bool:
        done = 0
        if self._to_fold() < self.config.fold_at:
            return False
        while self._to_fold() and not self._closed.is_set():
            start = time.monotonic()
            folded = self.state.fold()
            if not folded:
                break
            done += folded
            self._closed.wait(min(_REST * (time.monotonic() - start), seconds))
        return done > 0  # a tree keeps its last few, dead or not

    def _judge(self, seconds: float) -> bool:
        start = time.monotonic()
        sampled = self._shadow.next()
        if sampled is None:
            return False
        try:
            self._shadow.judge(sampled)
        finally:
            self.state.unpin()
        self._closed.wait(min(_JUDGING_REST * (time.monotonic() - start), seconds))
        return True

    def _build_if_due(self) -> bool:
        view, tree = self.state.view, self.state.tree
        if tree is None:
            due = view.size >= self.config.tree_from
        elif not tree.changes_in_place:
            due = len(view.fresh) + len(tree.dead) >= self.config.rebuild_share * max(view.size, 1)
            due &= view.size >= self.config.tree_from
        else:
            due = False
        if due:
            self.rebuild()
            return True
        judged = self._shadow.recall()
        fallen = judged.recall is not None and judged.recall < self.config.recall_floor
        if tree is None or not fallen or judged.n < min(self.config.recall_least, self.config.shadow_window):
            return False
        if self._changed_since < self.config.changed_between * view.size:
            return False
        changed = self._changed_since
        self.rebuild()
        with self.state.writing:
            self._changed_since -= changed
        self._rebalances += 1
        return True

    def begin_upkeep(self) -> None:
        """Begins the thread in the background."""
        self._upkeep = Background(self._keep_up)

    def _keep_up(self) -> None:
        while not self._closed.is_set():
            self._work.clear()
            try:
                busy = self.maintain(seconds=1.0)
            except Exception as error:  # searches must go on; it is told, and tried again
                self._failure, busy = f"{type(error).__name__}: {first_line(error)}", False
                self._closed.wait(_IDLE)
            if not busy:
                self._work.wait(_IDLE)

    def close(self) -> None:
        """Ends the thread in the background, when a tree that is being built is built."""
        self._closed.set()
        self._work.set()
        if self._upkeep is not None:
            self._upkeep.join()

    def __enter__(self) -> LiveIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> LiveStats:
        """Counters of now; nothing waits for them."""
        view, tree, judged = self.state.view, self.state.tree, self._shadow.recall()
        return LiveStats(
            size=view.size,
            fresh=len(view.fresh),
            tombstones=0 if tree is None else len(tree.dead),
            tree_size=0 if tree is None else tree.size,
            upserts=self._upserts,
            deletes=self._deletes,
            unknown_deletes=self._unknown,
            trees_built=self._trees_built,
            rebalances=self._rebalances,
            recall=judged.recall,
            recall_of=judged.n,
            unjudged=judged.unjudged,
            failure=self._failure,
        )
