"""When requests come, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inputs.simulate.config import SimulateConfig
from inputs.simulate.policy import EXPLORE, FOR_YOU, TRENDING
from inputs.simulate.population import SECONDS_PER_DAY, Users, start_of
from inputs.simulate.streams import uniforms

# Relative traffic by hour of the day (UTC) and by day of the week (Monday first).
HOURS = (3, 2, 1, 1, 1, 2, 3, 5, 6, 6, 6, 7, 8, 8, 7, 7, 8, 9, 11, 13, 14, 13, 9, 6)
WEEKDAYS = (1.0, 0.97, 0.98, 1.0, 1.08, 1.25, 1.2)


@dataclass(frozen=True)
class Requests:
    """Requests of one day in time order, arrays [n]; lists are numbered from `first_list`.

    turn: how many requests of the same user came before it that day.
    """

    first_list: int
    users: np.ndarray
    times: np.ndarray
    surfaces: np.ndarray
    turn: np.ndarray

    def between(self, start: int, stop: int) -> Requests:
        """Requests [start, stop) of these."""
        piece = slice(start, stop)
        return Requests(
            self.first_list + start, self.users[piece], self.times[piece], self.surfaces[piece], self.turn[piece]
        )


class Calendar:
    """The requests of each day: users by their activity, times by the hour's traffic."""

    def __init__(self, users: Users, config: SimulateConfig) -> None:
        self._config, self._start = config, start_of(config)
        self._activity = np.cumsum(users.activity)
        self._hours = np.concatenate([[0.0], np.cumsum(HOURS) / np.sum(HOURS)])
        traffic = np.array([WEEKDAYS[(config.start.weekday() + day) % 7] for day in range(config.days)])
        spare = config.lists - config.days  # each day has at least one list
        self._edges = np.arange(config.days + 1) + np.concatenate(
            [[0], np.floor(np.cumsum(traffic) / traffic.sum() * spare + 1e-6).astype(np.int64)]
        )

    def midnight(self, day: int) -> int:
        """Seconds at which a day begins."""
        return self._start + day * SECONDS_PER_DAY

    def requests(self, day: int) -> Requests:
        first, count = int(self._edges[day]), int(self._edges[day + 1] - self._edges[day])
        who, when, surface = uniforms(self._config.seed, f"requests {day}", 0, count, 3).T
        times = np.interp(when, self._hours, np.arange(len(HOURS) + 1) * (SECONDS_PER_DAY / len(HOURS)))
        times = self.midnight(day) + np.minimum(times.astype(np.int64), SECONDS_PER_DAY - 1)
        users = np.searchsorted(self._activity, who * self._activity[-1], side="right")
        order = np.argsort(times, kind="stable")
        users = np.minimum(users, len(self._activity) - 1)[order]
        surface = surface[order]
        explore, trending = self._config.explore_share, self._config.trending_share
        surfaces = np.where(surface < explore, EXPLORE, np.where(surface < explore + trending, TRENDING, FOR_YOU))
        return Requests(first, users, times[order], surfaces.astype(np.int8), _turns(users))


def _turns(users: np.ndarray) -> np.ndarray:
    """[n] int64: for each entry, how many equal ones stand before it."""
    order = np.argsort(users, kind="stable")
    ordered = users[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    turns = np.empty(len(users), np.int64)
    turns[order] = np.arange(len(users)) - np.repeat(begins, np.diff(np.r_[begins, len(users)]))
    return turns
