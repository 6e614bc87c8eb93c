"""From candidates to a slate: rules, freshness, diversity, and a reason for every place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from postranking.candidates import Candidates
from postranking.config import PostRankingConfig
from postranking.freshness import freshness
from postranking.mmr import Chosen, mmr
from postranking.rules import Caps, admissible
from postranking.scaling import robust_scale

_NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Slate:
    """items: [n] int64 positions, best first. scores: [n] float64, the marginal relevance each was chosen by. reasons:
    one phrase an item. counts: "candidates", what each rule took ("blocked", "seen", "duplicate", "capped") and
    "slate"; "capped" are the candidates that a cap shut out before the slate was full."""

    items: np.ndarray
    scores: np.ndarray
    reasons: list[str]
    counts: dict[str, int]


def rerank(
    candidates: Candidates,
    config: PostRankingConfig,
    size: int | None = None,
    seen: np.ndarray = _NOTHING,
    blocked: np.ndarray = _NOTHING,
) -> Slate:
    """A slate of up to `size` items (`config.slate_size` by default), fewer where the rules leave fewer.

    Values are brought to one scale (`robust_scale`), the freshness boost is added, and MMR chooses under the caps. The
    order of the candidates plays no part: of equals the higher value, then the lower position, goes first. seen,
    blocked: item positions of this user.

    Raises:
      UserError: a cap names a feature that the candidates do not carry.
      ValueError: `size` is negative.
    """
    size = config.slate_size if size is None else size
    if size < 0:
        raise ValueError(f"a slate of {size} items was asked for")
    ordered = candidates.take(np.lexsort((candidates.items, -candidates.values)))
    rows, taken = admissible(ordered.items, seen if config.exclude_seen else _NOTHING, blocked)
    left = ordered.take(rows)
    boost = config.freshness_weight * freshness(left.ages_days, config.freshness_half_life_days)
    caps = Caps(left.groups, config.caps)
    capped = 0

    def close(row: int, still_open: np.ndarray) -> None:
        nonlocal capped
        capped += caps.choose(row, still_open)

    chosen = mmr(robust_scale(left.values) + boost, left.vectors, size, config.diversity, close)
    counts = {"candidates": len(candidates), **taken, "capped": capped, "slate": len(chosen.rows)}
    reasons = _reasons(chosen, left.ages_days, config.freshness_half_life_days)
    return Slate(left.items[chosen.rows].astype(np.int64), chosen.scores, reasons, counts)


def _reasons(chosen: Chosen, ages_days: np.ndarray, fresh_days: float) -> list[str]:
    """Why each item has its place; candidates stand by falling value, so a leader is the best-valued one open. What
    lifts a candidate over it is freshness alone; fresh_days is the age up to which that is worth a word."""
    reasons = []
    for row, leader, lifted in zip(chosen.rows, chosen.leaders, chosen.lifted, strict=True):
        if row == 0:
            reason = "highest value"
        elif lifted and ages_days[row] <= fresh_days:
            reason = f"fresh: {_age(float(ages_days[row]))} old"
        else:
            reason = "high value" if lifted or row == leader else "adds variety"
        reasons.append(reason)
    return reasons


def _age(days: float) -> str:
    """Whole days, or hours within the first; 0 for an item of the future."""
    number, unit = (int(days), "day") if days >= 1 else (int(max(days, 0.0) * 24), "hour")
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
