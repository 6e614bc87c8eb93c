"""What post-ranking chooses from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """C ranked items of one user.

    items: [C] integer positions. values: [C] float, larger is better. vectors: [C, D] float, compared by cosine for
    diversity. ages_days: [C] float days since publication, NaN where unknown. groups: by category feature, [C] integer
    ids that caps count, 0 where unknown.

    Raises:
      ValueError: an array has another length, or a value or a vector is NaN or infinite.
    """

    items: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    ages_days: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {"values": self.values, "vectors": self.vectors, "ages_days": self.ages_days}
        for name, column in {**columns, **self.groups}.items():
            if len(column) != len(self.items):
                raise ValueError(f"{name} holds {len(column)} candidates, items holds {len(self.items)}")
        finite = {"values": np.isfinite(self.values), "vectors": np.isfinite(self.vectors).all(axis=1)}
        for name, rows in finite.items():
            bad = np.flatnonzero(~rows)
            if len(bad):
                raise ValueError(f"{name} of item {self.items[bad[0]]} ({len(bad)} in all) is not finite")

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: np.ndarray) -> Candidates:
        """The candidates at the given rows (indices or a mask), in that order."""
        groups = {name: column[rows] for name, column in self.groups.items()}
        return Candidates(self.items[rows], self.values[rows], self.vectors[rows], self.ages_days[rows], groups)
