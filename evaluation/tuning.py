"""A search over settings with a budget, so that a model and its baselines are tuned with equal care.

Much of the progress that papers claim vanished once baselines were tuned as the new model had been (M. Ferrari Dacrema
et al., "Are We Really Making Much Progress?", RecSys 2019). Random search is hard to beat where few settings matter (J.
Bergstra and Y. Bengio, JMLR 2012).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Settings = dict[str, Any]
Choices = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Trial:
    """settings: what was tried. value: how it was judged, larger is better."""

    settings: Settings
    value: float


def draw_settings(choices: Choices, budget: int, seed: int) -> list[Settings]:
    """At most `budget` different settings: the first of every choice, then others drawn evenly; all of them where there
    are no more. The same (choices, budget, seed) draw the same."""
    sizes = [len(values) for values in choices.values()]
    total = prod(sizes)
    drawn = np.random.default_rng(seed).permutation(total - 1)[: max(budget - 1, 0)] + 1
    numbers = [0, *np.sort(drawn).tolist()] if budget else []
    places = zip(*np.unravel_index(numbers, sizes), strict=True) if sizes else [() for _ in numbers]
    return [
        {name: values[int(place)] for (name, values), place in zip(choices.items(), row, strict=True)} for row in places
    ]


def tune(choices: Choices, budget: int, judge: Callable[[Settings], float], seed: int = 0) -> list[Trial]:
    """Judges the settings drawn, and returns the trials, best first; of equals, the one drawn first.

    Raises:
      ValueError: a judgement is not finite.
    """
    trials = []
    for settings in draw_settings(choices, budget, seed):
        value = judge(settings)
        if not np.isfinite(value):
            raise ValueError(f"tuning: {settings} was judged {value}")
        trials.append(Trial(settings, value))
    return sorted(trials, key=lambda trial: -trial.value)
