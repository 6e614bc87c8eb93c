"""The funnel: retrieval, ranking, post-ranking, for one user in milliseconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError
from foundation.tensors import to_tensors
from foundation.tf import tf
from inputs.entities import SECONDS_PER_DAY, UNKNOWN_TIME
from inputs.features import FeatureSpace
from inputs.histories import Histories
from inputs.ragged import Ragged
from postranking.candidates import Candidates
from postranking.rerank import Slate, rerank
from retrieval.index import Index
from retrieval.interests import search_interests
from serving.bundle import MANIFEST, Card, load_signature, read_card, readable
from serving.recommendation import Recommendation, RecommendedItem, StageReport
from serving.signatures import flatten

_SHOWN_HISTORY = 5
_LEAST_VALUE = 1e-6  # a value model may say 0 or less; its logarithm may not


@dataclass
class _Answer:
    """One pass through the funnel, by positions."""

    slate: Slate
    scores: dict[str, np.ndarray]  # of the slate's items, by name
    stages: list[StageReport] = field(default_factory=list)


class Funnel:
    """A bundle, loaded and ready. Answers are for the moment the bundle was made (`card.now`)."""

    def __init__(self, path: Path, card: Card) -> None:
        self.card = card
        with readable(path / "space"):
            self.space = FeatureSpace.load(path / "space")
        with readable(path / "histories.npz"):
            self.histories = Histories.load(path / "histories.npz")
        self.space.follow(self.histories.interactions)
        self._index = Index.load(path / "index")
        with readable(path / "candidates.npy"):
            self._vectors = np.load(path / "candidates.npy", mmap_mode="r", allow_pickle=False)
        self._query_tower = load_signature(path / "query_tower")
        self._ranker = load_signature(path / "ranker")
        nothing = np.empty(0, np.int64)
        self.answer(0, nothing, nothing, card.now)  # the first call of a SavedModel is slow: no user waits for it

    @classmethod
    def load(cls, run: str | Path) -> Funnel:
        """Loads a run directory's bundle, or a bundle's own folder.

        Raises:
          UserError: there is none, or it is damaged.
        """
        run = Path(run)
        for path in (run, run / "export"):
            if (path / MANIFEST).exists():
                return cls(path, read_card(path))
        found = "no such folder" if not run.exists() else "no exported bundle in it"
        raise UserError(f"{run}: {found}.", "Make one with `headrace run JOB`, or `headrace export JOB`.")

    def over(self, vectors: np.ndarray, index: Index) -> Funnel:
        """The same funnel over another catalogue's moment: candidate vectors [N, D] and their index."""
        other = copy.copy(self)
        other._vectors, other._index = vectors, index
        return other

    def recommend(
        self, user: int | str | None, size: int | None = None, blocked_items: Sequence[int | str] = ()
    ) -> Recommendation:
        """A slate for a user, by the ids of the log; None asks for a newcomer's.

        Raises:
          UserError: the user is not in the log, or a blocked item is not in the catalogue.
        """
        position = self._user(user)
        blocked = self._items(blocked_items)
        now = np.array([self.card.now])
        users = np.array([position])
        history = self.histories.before(users, now, self.card.history_length)
        seen = np.unique(self.histories.before(users, now, None).values)
        answer = self.answer(position, history.values, seen, self.card.now, size, blocked)
        return Recommendation(
            user if position == 0 else self.space.users.raw_ids(users)[0],
            self._described(answer),
            answer.stages,
            {
                "seen": len(seen) if self.card.postranking.exclude_seen else 0,
                "blocked": len(blocked),
                "capped": answer.slate.counts["capped"],
            },
            [self.space.item_words(int(item)) for item in history.values[-_SHOWN_HISTORY:]],
        )

    def answer(
        self,
        user: int,
        history: np.ndarray,
        seen: np.ndarray,
        now: int,
        size: int | None = None,
        blocked: np.ndarray | None = None,
    ) -> _Answer:
        """One pass for a user position with this history and these seen items (positions), at a moment (seconds)."""
        stages: list[StageReport] = []
        blocked = np.empty(0, np.int64) if blocked is None else blocked
        with _timed(stages, "query"):
            inputs = self.space.query_inputs(np.array([user]), Ragged(history, np.array([0, len(history)])))
            query_inputs = to_tensors(flatten(inputs))
            query = self._query_tower(**query_inputs)["query"].numpy()
        with _timed(stages, "retrieval") as done:
            excluded = np.unique(np.concatenate([seen if self.card.postranking.exclude_seen else seen[:0], blocked]))
            found, similarities = search_interests(
                self._index, query, self.card.funnel.retrieve, Ragged(excluded, np.array([0, len(excluded)]))
            )
            items, similarity = found[0][found[0] >= 0], similarities[0][found[0] >= 0]
            done(len(items))
        with _timed(stages, "ranking") as done:
            predictions = self._rank(query_inputs, items, now)
            value = np.log(np.maximum(predictions["value"], _LEAST_VALUE))
            score = value + self.card.funnel.retrieval_weight * similarity
            best = np.lexsort((items, -score))[: self.card.funnel.rank]
            done(len(best))
        with _timed(stages, "postranking") as done:
            candidates = self._candidates(items[best], score[best], now)
            slate = rerank(candidates, self.card.postranking, size, seen=seen, blocked=blocked)
            done(len(slate.items))
        places = _places(items, slate.items)
        scores = {
            name: values[places] for name, values in {"similarity": similarity, **predictions, "score": score}.items()
        }
        return _Answer(slate, scores, stages)

    def _rank(self, query_inputs: dict[str, tf.Tensor], items: np.ndarray, now: int) -> dict[str, np.ndarray]:
        """The ranker's predictions and value [C] for one list of items."""
        if not len(items):
            return {"value": np.empty(0, np.float32)}
        item_inputs = to_tensors(flatten(self.space.item_inputs(items, now)))
        splits = tf.constant([0, len(items)], tf.int64)
        outputs = self._ranker(**query_inputs, **item_inputs, list_row_splits=splits)
        return {name: values.numpy() for name, values in sorted(outputs.items())}

    def _candidates(self, items: np.ndarray, values: np.ndarray, now: int) -> Candidates:
        published = self.space.publication
        if published is None:
            ages = np.full(len(items), np.nan)
        else:
            times = published[items]
            ages = np.where(times == UNKNOWN_TIME, np.nan, (now - times) / SECONDS_PER_DAY)
        groups = {name: self.space.item_group(name)[items] for name in self.card.postranking.caps}
        return Candidates(items, values, np.asarray(self._vectors[items]), ages, groups)

    def _described(self, answer: _Answer) -> list[RecommendedItem]:
        raw = self.space.items.raw_ids(answer.slate.items)
        return [
            RecommendedItem(
                raw[place],
                self.space.item_words(int(item)),
                {name: round(float(values[place]), 6) for name, values in answer.scores.items()},
                answer.slate.reasons[place],
            )
            for place, item in enumerate(answer.slate.items)
        ]

    def _user(self, user: int | str | None) -> int:
        if user is None:
            return 0
        position = int(self.space.users.position_of([user])[0])
        if position == 0:
            known = self.space.users.raw_ids(np.array([1]))[0]
            raise UserError(
                f"user {user!r} is not in the log this was trained on.",
                f"Give a known id, such as {known}, or ask for a newcomer's slate (--newcomer; over HTTP: user null).",
            )
        return position

    def _items(self, items: Sequence[int | str]) -> np.ndarray:
        positions = self.space.items.position_of(list(items)) if len(items) else np.empty(0, np.int64)
        for item, position in zip(items, positions, strict=True):
            if position < 0:
                raise UserError(f"blocked item {item!r} is not in the catalogue.", "Give ids as the log writes them.")
        return np.unique(positions)


def _places(items: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Where each of `chosen` stands in `items`."""
    order = np.argsort(items)
    return order[np.searchsorted(items[order], chosen)] if len(items) else np.empty(0, np.int64)


@contextmanager
def _timed(stages: list[StageReport], stage: str) -> Iterator[Any]:
    """Appends a stage's report; call what is yielded with the items it passed on."""
    counted = [1]
    start = time.perf_counter()
    yield lambda items: counted.__setitem__(0, items)
    stages.append(StageReport(stage, counted[0], round((time.perf_counter() - start) * 1e3, 3)))
