"""The baselines of retrieval, and what of each is tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.retrieval_problem import Problem
from evaluation.baselines import EASE, IALS, Factorisation, ItemKNN, Popularity, RecentPopularity
from evaluation.harness import Scorer
from evaluation.tuning import Choices, Settings, Trial, tune

HISTORY = "history"  # the setting that says how many of a query's latest positives a baseline is asked with
_HISTORIES = (50, 20, 10, 5, 1_000)


@dataclass(frozen=True)
class Baseline:
    """choices: what is tuned, the first of each the default. make: (problem, moment its training ends, settings)."""

    name: str
    choices: Choices
    make: Callable[[Problem, int, Settings], Scorer]

    def tuned(self, problem: Problem, budget: int, seed: int) -> list[Trial]:
        """Trials on the validation period, best first. What differs in its history alone is fitted once."""
        fitted: dict[tuple[Any, ...], Scorer] = {}

        def judge(settings: Settings) -> float:
            own = {name: value for name, value in settings.items() if name != HISTORY}
            key = tuple(own.values())
            if key not in fitted:
                fitted.clear()  # a model of one setting in memory at a time
                fitted[key] = self.make(problem, problem.tuned_from, own)
            return problem.validate(fitted[key], settings.get(HISTORY, 0))

        return tune(self.choices, budget, judge, seed)

    def answer(self, problem: Problem, settings: Settings) -> Any:
        """[Q, 100] positions for the test's queries, trained on all that came before them."""
        own = {name: value for name, value in settings.items() if name != HISTORY}
        return problem.answer(self.make(problem, problem.judged_from, own), settings.get(HISTORY, 0))


def _popularity(problem: Problem, until: int, settings: Settings) -> Scorer:
    return Popularity(problem.workspace.interactions, problem.sizes[1], until)


def _recent(problem: Problem, until: int, settings: Settings) -> Scorer:
    return RecentPopularity(problem.workspace.interactions, problem.sizes[1], **settings)


def _item_knn(problem: Problem, until: int, settings: Settings) -> Scorer:
    return ItemKNN(problem.workspace.interactions, *problem.sizes, until, **settings)


def _ease(problem: Problem, until: int, settings: Settings) -> Scorer:
    return EASE(problem.workspace.interactions, *problem.sizes, until, **settings)


def _ials(problem: Problem, until: int, settings: Settings) -> Scorer:
    return IALS(problem.workspace.interactions, *problem.sizes, until, Factorisation(**settings))


BASELINES = (
    Baseline("popularity", {}, _popularity),
    Baseline("recent_popularity", {"days": (7, 0.25, 1, 2, 4, 14, 30, 60, 120, 240, 480, 960)}, _recent),
    Baseline(
        "item_knn",
        {"neighbours": (100, 20, 50, 200, 500), "shrinkage": (10.0, 0.0, 50.0, 200.0), HISTORY: _HISTORIES},
        _item_knn,
    ),
    Baseline("ease", {"regularisation": (100.0, 20.0, 500.0, 2_000.0), HISTORY: _HISTORIES}, _ease),
    Baseline(
        "ials",
        {
            "dim": (32, 64, 128),
            "unobserved": (0.1, 0.02, 0.5),
            "regularisation": (0.003, 0.0005, 0.02),
            "nu": (1.0, 0.5),
            HISTORY: _HISTORIES,
        },
        _ials,
    ),
)
