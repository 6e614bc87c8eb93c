"""Which new ids of a dynamic table get a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COUNTERS = 1 << 22
MOST_COUNTED = 255  # a counter is one byte


@dataclass(frozen=True)
class FrequencyAdmission:
    """An id is admitted when it has come `threshold` times.

    Counts of ids without a row are kept approximately, in `counters` bytes: a count-min sketch of depth 4 with
    conservative update (Estan and Varghese, ACM TOCS 2003). A sketch counts too much, never too little; so that it does
    not fill up, its counters are halved after half as many counts as it has counters (TinyLFU: Einziger, Friedman and
    Manes, ACM TOS 2017). Give it about twice as many counters as there are occurrences of such ids within the time in
    which an id is to come `threshold` times.
    """

    threshold: int
    counters: int = COUNTERS

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= MOST_COUNTED:
            raise ValueError(f"FrequencyAdmission: threshold lies in 1 to {MOST_COUNTED}")
        if self.counters < 1:
            raise ValueError("FrequencyAdmission: counters is at least 1")

    def options(self) -> dict[str, Any]:
        """For `kernels().id_table`."""
        return {"admission": "frequency", "threshold": self.threshold, "counters": self.counters}


@dataclass(frozen=True)
class ProbabilityAdmission:
    """Each time an id without a row comes it is admitted with this probability: 1 / probability times on average. It
    needs no memory. The draw is a function of (table, id, step, how often it came in the step) alone."""

    probability: float

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError("ProbabilityAdmission: probability lies in (0, 1]")

    def options(self) -> dict[str, Any]:
        """For `kernels().id_table`."""
        return {"admission": "probability", "probability": self.probability}


Admission = FrequencyAdmission | ProbabilityAdmission
