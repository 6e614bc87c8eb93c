"""Greedy MMR equals its definition written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postranking.mmr import mmr


def keep_open(row: int, still_open: np.ndarray) -> None:
    """No caps."""


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 0 else 0.0


def naive(relevance: np.ndarray, vectors: np.ndarray, size: int, diversity: float) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < min(size, len(relevance)):
        marginal = {
            i: (1 - diversity) * relevance[i]
            - diversity * max((cosine(vectors[i], vectors[j]) for j in chosen), default=0.0)
            for i in range(len(relevance))
            if i not in chosen
        }
        chosen.append(max(marginal, key=marginal.__getitem__))
    return chosen


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(1, 8), st.integers(0, 50), st.floats(0, 1))
def test_equals_the_naive_reference(seed: int, count: int, dim: int, size: int, diversity: float) -> None:
    rng = np.random.default_rng(seed)
    relevance, vectors = rng.normal(size=count), rng.normal(size=(count, dim))
    vectors[: count // 8] = 0
    diversity = min(diversity, 0.999)  # where similarity alone counts, equal ones may differ in the last bit
    if dim == 1:  # every cosine is -1 or 1, and a tie's winner would hang on the last bit of a length
        vectors = np.sign(vectors)
    assert mmr(relevance, vectors, size, diversity, keep_open).rows.tolist() == naive(
        relevance, vectors, size, diversity
    )


def test_scores_are_the_marginal_relevance() -> None:
    relevance = np.array([1.0, 0.9, 0.0])
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    chosen = mmr(relevance, vectors, 3, 0.5, keep_open)
    assert chosen.rows.tolist() == [0, 2, 1]
    assert chosen.scores == pytest.approx([0.5, 0.0, 0.45 - 0.5])
    assert chosen.leaders.tolist() == [0, 1, 1]
    assert chosen.lifted.tolist() == [False, False, False]


def test_a_candidate_is_lifted_over_a_less_relevant_leader() -> None:
    chosen = mmr(np.array([0.1, 0.9, 0.5]), np.eye(3), 3, 0.0, keep_open)
    assert chosen.rows.tolist() == [1, 2, 0]
    assert chosen.lifted.tolist() == [True, True, False]


def test_an_opposite_first_neighbour_is_rewarded_not_clipped() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert mmr(np.array([1.0, 0.5, 0.4]), vectors, 2, 0.5, keep_open).rows.tolist() == [0, 2]
