"""Search among slots that an answer may hold: a tree asked for enough, or the few looked at one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from inputs.ragged import Ragged
from retrieval.index.exact import Denied, exact_top, padded, top_of
from retrieval.index.items.slots import View
from retrieval.index.items.tree import LiveTree
from retrieval.index.setting import Effort

FEW = 20_000  # slots that are scored one by one rather than sought with a tree,
FEW_SHARE = 0.02  # and so is this share of all: a tree would have to be asked for 50 times as many
_WIDENED = 4  # what is asked for grows by, where an answer is short
_ROUNDS = 2
_SPARE = 8  # asked for beyond twice what is expected to be in the way


@dataclass(frozen=True)
class Restriction:
    """What may be returned of a view. mask: [used] bool, of what is there and meets the condition; None: all that is
    there. denied: by query. allowed: slots by query, seen in the view; None: no lists."""

    view: View
    mask: np.ndarray | None = None
    denied: Denied | None = None
    allowed: Ragged | None = None

    def holds(self, slots: np.ndarray) -> np.ndarray:
        """Which slots (any shape; -1: none) are there and meet the condition."""
        return self.view.visible(slots) if self.mask is None else (slots >= 0) & self.mask[slots]

    @property
    def count(self) -> int:
        return self.view.size if self.mask is None else int(np.count_nonzero(self.mask))

    def slots(self) -> np.ndarray:
        """All of them, in order."""
        return np.flatnonzero(self.view.visible_mask() if self.mask is None else self.mask)

    def take(self, queries: np.ndarray) -> Restriction:
        denied = None if self.denied is None else self.denied.take(queries)
        return Restriction(self.view, self.mask, denied, self.allowed)


def search_restricted(
    tree: LiveTree | None, queries: np.ndarray, k: int, restriction: Restriction, effort: Effort | None
) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` slots that a restriction lets through: (slots [Q, k] int64, scores [Q, k] float32), ties by id (of
    ties at the edge, any), -1 and -inf where there are fewer. However the tree may err, as many are returned as there
    are."""
    view = restriction.view
    if restriction.allowed is not None:
        return _listed(queries, k, restriction, restriction.allowed)
    if restriction.mask is not None and restriction.count <= max(FEW, FEW_SHARE * view.size):
        return exact_top(view.vectors, restriction.slots(), view.ids, queries, k, restriction.denied)
    if tree is None or not tree.size:
        return padded(*_fresh(queries, k, restriction, None), k)
    found, scores = _from_tree(tree, queries, k, restriction, effort)
    fresh, fresh_scores = _fresh(queries, k, restriction, scores[:, -1])
    if not fresh.shape[1]:
        return found, scores
    return top_of(np.hstack([found, fresh]), np.hstack([scores, fresh_scores]), view.ids, k)


def _listed(queries: np.ndarray, k: int, restriction: Restriction, allowed: Ragged) -> tuple[np.ndarray, np.ndarray]:
    view = restriction.view
    answers = []
    for q in range(len(queries)):
        slots = np.unique(allowed.row(q))
        denied = None if restriction.denied is None else restriction.denied.take(np.array([q]))
        slots = slots[restriction.holds(slots)]
        answers.append(exact_top(view.vectors, slots, view.ids, queries[q : q + 1], k, denied))
    if not answers:
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    return np.concatenate([a for a, _ in answers]), np.concatenate([s for _, s in answers])


def _fresh(
    queries: np.ndarray, k: int, restriction: Restriction, floor: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of what no tree holds yet and scores [Q] `floor` at least: at most k columns, perhaps none."""
    view = restriction.view
    there = restriction.holds(view.fresh)
    vectors, slots = view.fresh_vectors, view.fresh
    if not there.all():
        vectors, slots = vectors[there], slots[there]
    if not len(slots):
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    rows, scores = exact_top(vectors, None, view.ids[slots], queries, k, restriction.denied, floor)
    return np.where(rows >= 0, slots[rows], -1), scores


def _from_tree(
    tree: LiveTree, queries: np.ndarray, k: int, restriction: Restriction, effort: Effort | None
) -> tuple[np.ndarray, np.ndarray]:
    """Asks for as many more as are likely in the way; again for more where an answer is short; and where one still is,
    looks at all that is allowed."""
    setting = tree.searcher.setting
    if setting is not None:
        effort = effort or setting.effort
    # What died since the view was taken is still to be found; what is allowed but fresh is few.
    alive = tree.size - len(tree.dead) if restriction.mask is None else min(restriction.count, tree.size)
    share = max(alive, 1) / tree.size
    asked = k + (math.ceil(2 * k * (1 - share) / share) + _SPARE if share < 1 else 0)
    if restriction.denied is not None:
        asked += min(restriction.denied.most, 4 * k + 64)
    if effort is not None:  # as many that may be returned are looked at as without a restriction
        effort = Effort(math.ceil(effort.leaves_to_search / share), math.ceil(effort.reorder / share))
    slots = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    short = np.arange(len(queries))
    for _ in range(1 + _ROUNDS):
        asked = min(asked, tree.size)
        wider = None if effort is None else Effort(effort.leaves_to_search, max(effort.reorder, asked))
        answer = tree.search(queries[short], asked, wider)
        if not tree.searcher.scores_as_given:
            answer = _scored_again(answer[0], queries[short], restriction.view)
        found, values = _kept(*answer, k, restriction.take(short))
        slots[short], scores[short] = found, values
        short = short[found[:, -1] < 0]
        if not len(short) or (asked == tree.size and effort is None):
            return slots, scores
        asked *= _WIDENED
        effort = None if effort is None else Effort(effort.leaves_to_search * _WIDENED, effort.reorder)
    in_tree = tree.slots[restriction.holds(tree.slots)]
    view, left = restriction.view, restriction.take(short)
    slots[short], scores[short] = exact_top(view.vectors, in_tree, view.ids, queries[short], k, left.denied)
    return slots, scores


def _kept(slots: np.ndarray, scores: np.ndarray, k: int, restriction: Restriction) -> tuple[np.ndarray, np.ndarray]:
    """The first k that may be returned, in their order."""
    fine = restriction.holds(slots)
    if restriction.denied is not None:
        fine &= ~restriction.denied.among(restriction.view.ids[slots])
    if slots.shape[1] == k and fine.all():
        return slots, scores
    order = np.argsort(~fine, axis=1, kind="stable")[:, :k]
    slots, scores, fine = (np.take_along_axis(a, order, 1) for a in (slots, scores, fine))
    return padded(np.where(fine, slots, -1), np.where(fine, scores, np.float32(-np.inf)), k)


def _scored_again(slots: np.ndarray, queries: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Scores from the vectors themselves, so that they can be compared: ScaNN's 16- and 8-bit ones are rounded, and
    8-bit ones cut off at the range of the vectors that were there when the tree was trained."""
    scores = np.empty(slots.shape, np.float32)
    for q, query in enumerate(queries):
        scores[q] = np.where(slots[q] >= 0, view.vectors[slots[q]] @ query, -np.inf)
    return top_of(slots, scores, view.ids, slots.shape[1])
