"""What may not be on a slate, and how much of a kind may."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foundation.errors import UserError, nearest


def admissible(items: np.ndarray, seen: np.ndarray, blocked: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Candidates left by the rules, in order, and how many each rule took.

    items, seen, blocked: positions. An item listed twice is kept where it stands first. Returns rows [kept] int64 and
    the counts "blocked", "seen" and "duplicate"; an item is counted once, under the first rule that takes it.
    """
    is_blocked = np.isin(items, blocked)
    is_seen = np.isin(items, seen) & ~is_blocked
    first = np.zeros(len(items), bool)
    first[np.unique(items, return_index=True)[1]] = True
    is_duplicate = ~first & ~is_blocked & ~is_seen
    counts = {"blocked": is_blocked, "seen": is_seen, "duplicate": is_duplicate}
    kept = ~(is_blocked | is_seen | is_duplicate)
    return np.flatnonzero(kept), {rule: int(taken.sum()) for rule, taken in counts.items()}


class Caps:
    """Counts how many chosen candidates share each value of each capped feature.

    groups: by feature, [C] integer ids; the unknown one, 0, is not capped. caps: by feature, how many may share one.

    Raises:
      UserError: a cap names a feature that the candidates do not carry.
    """

    def __init__(self, groups: Mapping[str, np.ndarray], caps: Mapping[str, int]) -> None:
        for name in caps:
            if name not in groups:
                raise UserError(
                    f"postranking.caps: items have no category feature '{name}'; {nearest(name, groups)}",
                    "Mend the name in the job file.",
                )
        capped = ((np.asarray(groups[name]), cap) for name, cap in caps.items())
        self._left = [(ids, dict.fromkeys(np.unique(ids).tolist(), cap)) for ids, cap in capped]

    def choose(self, row: int, open_rows: np.ndarray) -> int:
        """Counts the candidate at `row` and closes, in the mask `open_rows` [C], those that a cap now shuts out;
        returns how many it closed."""
        before = int(open_rows.sum())
        for ids, left in self._left:
            group = int(ids[row])
            left[group] -= 1
            if group != 0 and left[group] == 0:
                open_rows &= ids != group
        return before - int(open_rows.sum())
