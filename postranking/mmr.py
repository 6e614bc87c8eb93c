"""Maximal marginal relevance: each next item is worth much and unlike those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chosen:
    """rows: [n] int64 candidates in the order chosen. scores: [n] float64, each one's marginal relevance when chosen.
    leaders: [n] int64, the first candidate that was open then. lifted: [n] bool, none open was more relevant than the
    one chosen, and the leader was less."""

    rows: np.ndarray
    scores: np.ndarray
    leaders: np.ndarray
    lifted: np.ndarray


def normalised(vectors: np.ndarray) -> np.ndarray:
    """[C, D] float64 of length 1; a zero vector, similar to nothing, stays zero."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def mmr(
    relevance: np.ndarray,
    vectors: np.ndarray,
    size: int,
    diversity: float,
    close: Callable[[int, np.ndarray], object],
) -> Chosen:
    """Greedy MMR (Carbonell & Goldstein, SIGIR 1998): argmax over what is left of
    (1 - diversity) * relevance - diversity * max over chosen j of cosine(i, j), the second term 0 for the first item.

    relevance: [C]. vectors: [C, D]. close: called with a chosen row and the mask [C] of candidates still open, which it
    may narrow. Of equals the first is taken. Takes up to `size`, in time O(size * C * D): only the similarity to the
    newest item is new in a round.
    """
    units = normalised(vectors)
    penalty = np.zeros(len(relevance))
    still_open = np.ones(len(relevance), bool)
    rounds: list[tuple[int, float, int, bool]] = []
    while len(rounds) < size and still_open.any():
        marginal = np.where(still_open, (1 - diversity) * relevance - diversity * penalty, -np.inf)
        row = int(np.argmax(marginal))
        leader = int(np.argmax(still_open))
        lifted = relevance[row] == relevance[still_open].max() and relevance[row] > relevance[leader]
        rounds.append((row, marginal[row], leader, bool(lifted)))
        still_open[row] = False
        close(row, still_open)
        similarity = units @ units[row]
        penalty = similarity if len(rounds) == 1 else np.maximum(penalty, similarity)
    rows, scores, leaders, were_lifted = zip(*rounds, strict=True) if rounds else ((), (), (), ())
    return Chosen(
        np.array(rows, np.int64),
        np.array(scores, np.float64),
        np.array(leaders, np.int64),
        np.array(were_lifted, bool),
    )
