"""Finds the cheapest setting of an index that reaches a recall, by measuring on held-out queries.

Trees differ in leaves, anisotropic threshold, dimensions to a code, and SOAR or AVQ: each is built once, on a sample,
and swept over leaves to search and vectors to reorder, which costs no building. The best third goes on to a sample
four times larger, until the last few are built on all vectors (successive halving, Jamieson and Talwalkar, AISTATS
2016); the best of those is then tried with its vectors in fewer bits. Exact search takes part: a small catalogue may be
best served by it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foundation.errors import UserError
from retrieval.index.recall import exact_search
from retrieval.index.searcher import Searcher
from retrieval.index.setting import CODES, ReorderPrecision, TreeSetting
from retrieval.index.tuner.measure import Point, Trial, again, built_as, measured, pareto, swept

_FIRST_SAMPLE = 30_000
_GROWTH = 4
_FEWER = 3  # of so many trees one goes on to the next sample
_LAST = 2  # trees that are built on all vectors
_CLOSE = 6  # settings measured again before one is chosen
_TIMES = 3
_QUERIES, _FEWER_QUERIES = 1_000, 400


@dataclass(frozen=True)
class Choices:
    """What trees to try. leaves: multiples of the square root of the number of vectors. anisotropic_thresholds:
    multiples of the vectors' median norm, which the threshold is compared with; each goes with each of dims_per_block.
    codes: laid out by the queries, multiples of the dimensions. partitions: (SOAR's lambda, AVQ's eta).
    """

    leaves: tuple[float, ...] = (0.5, 1.0, 2.0)
    anisotropic_thresholds: tuple[float | None, ...] = (0.2, None)
    partitions: tuple[tuple[float | None, float | None], ...] = ((None, None), (1.5, None), (None, 2.5))
    dims_per_block: tuple[int, ...] = (2, 1)
    codes: tuple[float, ...] = (0.375, 0.5, 0.75)
    reorder_precisions: tuple[ReorderPrecision, ...] = ("float32", "bfloat16", "int8")
    training_sample: int = 250_000


@dataclass(frozen=True)
class Tuned:
    """chosen: the fastest point whose recall reaches the target, on the queries that tune and on those that verify.
    points: all that was measured over all vectors; frontier: those of them that no other beats."""

    target: float
    k: int
    queries: int
    size: int
    dim: int
    chosen: Point
    exact: Point
    points: tuple[Point, ...]

    @property
    def frontier(self) -> list[Point]:
        return pareto(self.points)


def tune(
    vectors: np.ndarray,
    queries: np.ndarray,
    target: float,
    k: int = 100,
    choices: Choices | None = None,
    seed: int = 0,
    threads: int | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Tuned:
    """The cheapest setting for `target` recall@k over vectors [N, D].

    queries: [Q, D] float32, at least 2; of at most a thousand half choose, half verify. What is learned from queries is
    learned from the others, or, where they are few, from the half that chooses. told: hears what is tried.

    Raises:
      UserError: shapes do not fit, or there are too few queries.
    """
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1] or len(queries) < 2:
        raise UserError(
            f"the queries: shape {list(queries.shape)}; wanted are 2 or more of {vectors.shape[1]} numbers.",
            "Give queries of the model that the vectors are from.",
        )
    choices, generator = choices or Choices(), np.random.default_rng(seed)
    drawn = np.ascontiguousarray(queries[generator.permutation(len(queries))], np.float32)
    queries, others = drawn[:_QUERIES], drawn[_QUERIES:]
    if len(others) < len(queries) // 2:
        others = queries[: len(queries) // 2]
    k = min(k, len(vectors))
    candidates = list(_trees(choices))
    some = vectors[np.sort(generator.permutation(len(vectors))[:_FIRST_SAMPLE])]
    norm = float(np.median(np.linalg.norm(some, axis=1))) or 1.0
    size = 0
    while len(vectors) >= CODES and len(candidates) > _LAST and size < len(vectors):
        size = min(max(size * _GROWTH, _FIRST_SAMPLE), len(vectors))
        sample = vectors[np.sort(generator.permutation(len(vectors))[:size])]
        trial = _trial(sample, queries[:_FEWER_QUERIES], k)
        least = measured(Searcher.build_exact(sample, threads), trial, None).rate
        scored = []
        for number, tree in enumerate(candidates):
            told(f"{size:,} vectors, tree {number + 1} of {len(candidates)}")
            setting = _setting(tree, size, vectors.shape[1], norm, choices)
            points = swept(Searcher.build_tree(sample, setting, threads, others), trial, target, least)
            scored.append((_rate_at(points, target), number))
        scored.sort(reverse=True)
        candidates = [candidates[number] for _, number in scored[: max(len(candidates) // _FEWER, _LAST)]]
    settings = [_setting(tree, len(vectors), vectors.shape[1], norm, choices) for tree in candidates[:_LAST]]
    return _finished(vectors, queries, others, target, k, settings, choices.reorder_precisions, threads, told)


def _finished(
    vectors: np.ndarray,
    queries: np.ndarray,
    others: np.ndarray,
    target: float,
    k: int,
    settings: Sequence[TreeSetting],
    precisions: Sequence[ReorderPrecision],
    threads: int | None,
    told: Callable[[str], None],
) -> Tuned:
    """The last round, over all vectors."""
    trial = _trial(vectors, queries, k)
    searchers: dict[TreeSetting | None, Searcher] = {None: Searcher.build_exact(vectors, threads)}
    exact = measured(searchers[None], trial, None)
    points: list[Point] = [exact]

    def try_one(setting: TreeSetting) -> list[Point]:
        told(f"{len(vectors):,} vectors: {describe(setting)}")
        searcher = Searcher.build_tree(vectors, setting, threads, others)
        searchers[built_as(searcher.setting)] = searcher
        found = swept(searcher, trial, target, exact.rate)
        points.extend(found)
        return found

    if len(vectors) >= CODES:
        tried = [(_rate_at(try_one(setting), target), setting) for setting in settings]
        best = max(tried, key=lambda pair: pair[0])[1]
        for precision in precisions:
            if precision != best.reorder_precision:
                try_one(replace(best, reorder_precision=precision))
    enough = sorted((p for p in points if min(p.recall, p.verified) >= target), key=lambda p: -p.rate)
    close = again([*enough[:_CLOSE], *([exact] if exact not in enough[:_CLOSE] else [])], searchers, trial, _TIMES)
    renewed = {point.setting: point for point in close}
    points = [renewed.get(point.setting, point) for point in points]
    chosen = max(close, key=lambda point: point.rate)
    size, dim = vectors.shape
    return Tuned(target, k, len(queries), size, dim, chosen, renewed[None], tuple(points))


_Codes = tuple[float | None, int, float | None]  # anisotropic threshold, dimensions to a block, codes
_Tree = tuple[float, tuple[float | None, float | None], _Codes]  # of `Choices`, one of each


def _trees(choices: Choices) -> Iterator[_Tree]:
    as_they_are = itertools.product(choices.anisotropic_thresholds, choices.dims_per_block, (None,))
    by_queries = ((None, TreeSetting.dims_per_block, codes) for codes in choices.codes)
    return itertools.product(choices.leaves, choices.partitions, [*as_they_are, *by_queries])


def _setting(tree: _Tree, size: int, dim: int, norm: float, choices: Choices) -> TreeSetting:
    """norm: the vectors' median."""
    of_root, (soar, avq), (threshold, dims, codes) = tree
    leaves = max(round(of_root * math.sqrt(size)), 1)
    return TreeSetting(
        leaves,
        leaves,
        size,
        None if threshold is None else float(f"{threshold * norm:.3g}"),
        soar,
        dims,
        choices.reorder_precisions[0],
        choices.training_sample,
        avq,
        None if codes is None else max(round(codes * dim), 2),
    ).fitted(size)


def _trial(vectors: np.ndarray, queries: np.ndarray, k: int) -> Trial:
    wanted, _ = exact_search(vectors, queries, min(k, len(vectors)))
    return Trial(queries, wanted, len(queries) // 2)


def _rate_at(points: Sequence[Point], target: float) -> float:
    """How fast a tree is at the target; where it does not reach it, less than 0, the less the further away."""
    rates = [point.rate for point in points if point.recall >= target]
    return max(rates) if rates else max(point.recall for point in points) - 1


def describe(setting: TreeSetting | None) -> str:
    """A setting in words."""
    if setting is None:
        return "exact search"
    words = [f"{setting.leaves} leaves"]
    words += [f"SOAR {setting.soar}"] * (setting.soar is not None) + [f"AVQ {setting.avq}"] * (setting.avq is not None)
    threshold = setting.anisotropic_threshold
    words.append("no anisotropic threshold" if threshold is None else f"threshold {threshold}")
    words.append(
        f"{setting.dims_per_block} dimensions to a code"
        if setting.codes is None
        else f"{setting.codes} codes by what queries look at"
    )
    return f"{', '.join(words)}, reordering in {setting.reorder_precision}"
