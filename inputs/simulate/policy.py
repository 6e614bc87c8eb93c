"""The logging policy: what a user is shown, and with what probability.

Three surfaces. `for_you`, the personal feed: candidates are drawn from pools (the user's topics, popular, fresh, all),
scored by the policy's picture of the user, and placed by a Plackett-Luce model: position by position, among the
candidates not placed yet, with probability softmax(score / temperature). `trending`: placed by Plackett-Luce among all
published items with weights equal to popularity. `explore`: the same with equal weights.

The propensity of a placement is its probability given the request, the candidates and what was placed at the positions
before it. For trending and explore the candidates are all items published before the day began; for the feed they are
the ones drawn for this request, which the log does not show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inputs.simulate.behaviour import ATTRACTION_TASTE, appeal, novelty, tastes
from inputs.simulate.config import SimulateConfig
from inputs.simulate.population import SECONDS_PER_DAY, Population
from inputs.simulate.streams import uniforms
from inputs.simulate.words import TOPICS

SURFACES = ("for_you", "trending", "explore")
FOR_YOU, TRENDING, EXPLORE = range(3)

TOPIC_POOL, POPULAR_POOL, FRESH_POOL = 0.5, 0.15, 0.1  # shares of the candidates; the rest comes from all items
FRESH_DAYS = 3
INTEREST = 8.0  # sharpness of a user's distribution over topics
TOPIC_POOL_POPULARITY, TOPIC_POOL_NOVELTY = 0.8, 2.0  # powers of what an item's weight within its topic is made of


@dataclass(frozen=True)
class Pool:
    """Items to draw from, with weights: `total` is their sum, `cumulative` their running sum."""

    items: np.ndarray
    cumulative: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, weights: np.ndarray) -> Pool:
        return cls(items, np.cumsum(weights, dtype=np.float64))

    @property
    def total(self) -> float:
        return float(self.cumulative[-1])

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """Items, independently, one for each uniform number."""
        return self.items[self._at(uniform * self.total)]

    def slates(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Plackett-Luce slates. uniform: [n, size], one number per position.

        Returns (items [n, size], propensities [n, size]): each position's draw is exact, by inverting the cumulative
        weights with the intervals of the items placed before cut out.
        """
        rows, size = uniform.shape
        placed = np.empty((rows, 0), np.int64)
        slate, propensity = np.empty((rows, size), np.int64), np.empty((rows, size))
        remaining = np.full(rows, self.total)
        for position in range(size):
            target = uniform[:, position] * remaining
            for column in range(position):  # placed is sorted: each interval that begins before the target shifts it
                starts, stops = self._interval(placed[:, column])
                target = np.where(target >= starts, target + (stops - starts), target)
            chosen = self._not_placed(self._at(target), placed)
            starts, stops = self._interval(chosen)
            slate[:, position] = self.items[chosen]
            propensity[:, position] = (stops - starts) / remaining
            remaining = np.maximum(remaining - (stops - starts), np.finfo(np.float64).tiny)
            placed = np.sort(np.concatenate([placed, chosen[:, None]], axis=1), axis=1)
        return slate, propensity

    def _at(self, targets: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self.cumulative, targets, side="right"), len(self.items) - 1)

    def _interval(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(index > 0, self.cumulative[index - 1], 0.0), self.cumulative[index]

    def _not_placed(self, chosen: np.ndarray, placed: np.ndarray) -> np.ndarray:
        """Rounding can land a target on the edge of an item already placed: then the next one that is not."""
        while (clash := (placed == chosen[:, None]).any(axis=1)).any():
            chosen = np.where(clash, (chosen + 1) % len(self.items), chosen)
        return chosen


class Policy:
    """The logging policy of a world. `open_day` stocks the pools; then `feed`, `trending` and `explore` make slates."""

    def __init__(self, population: Population, config: SimulateConfig) -> None:
        self._population, self._config = population, config
        self._appeal = appeal(population.items, config)
        items = population.items
        self._by_topic = np.argsort(items.topic, kind="stable")
        self._popularity = np.exp(items.log_popularity)

    def open_day(self, day: int, midnight: int) -> None:
        """The pools of a day hold what was published before its midnight (seconds)."""
        items, self._day = self._population.items, day
        published = np.flatnonzero(items.published < midnight)
        fresh = published[items.published[published] >= midnight - FRESH_DAYS * SECONDS_PER_DAY]
        self._everything = Pool.of(published, np.ones(len(published)))
        self._popular = Pool.of(published, self._popularity[published])
        self._fresh = Pool.of(fresh, np.ones(len(fresh))) if len(fresh) else self._everything
        in_topics = self._by_topic[items.published[self._by_topic] < midnight]
        freshness = novelty(midnight - items.published[in_topics], self._config) ** TOPIC_POOL_NOVELTY
        self._topics = Pool.of(in_topics, self._popularity[in_topics] ** TOPIC_POOL_POPULARITY * freshness)
        edges = np.searchsorted(items.topic[in_topics], np.arange(len(TOPICS) + 1))
        self._topic_edges = edges
        self._topic_starts = np.concatenate([[0.0], self._topics.cumulative])[edges]

    def trending(self, first: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Slates of the day's trending lists [first, first + rows): (items, propensities), each [rows, slate_size]."""
        return self._popular.slates(self._uniforms("trending", first, rows, self._config.slate_size))

    def explore(self, first: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Slates of the day's explore lists [first, first + rows)."""
        return self._everything.slates(self._uniforms("explore", first, rows, self._config.slate_size))

    def feed(self, first: int, users: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slates for users [n], the day's feed requests [first, first + n); shown: [n, no_repeat] items to avoid."""
        candidates = self._candidates(first, users)
        scores = self.scores(users, candidates)
        eligible = self._eligible(candidates, shown)
        gumbel = -np.log(-np.log(self._uniforms("placement", first, len(users), candidates.shape[1]) + 1e-300))
        order, log_propensity = plackett_luce(np.where(eligible, scores, -np.inf), gumbel)
        order = order[:, : self._config.slate_size]
        slates = np.take_along_axis(candidates, order, axis=1)
        return slates, np.exp(log_propensity[:, : self._config.slate_size])

    def scores(self, users: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """[n, c] float64: the policy's idea of the logit of attraction, over the temperature."""
        population = self._population
        taste = tastes(population.users.seen_vector[users][:, None, :], population.items.vector[candidates])
        return (ATTRACTION_TASTE * taste + self._appeal[candidates]).astype(np.float64) / self._config.temperature

    def _candidates(self, first: int, users: np.ndarray) -> np.ndarray:
        """[n, candidates] items, sorted in each row, repeats included; at least slate_size of a row are distinct."""
        total = self._config.candidates
        topic, popular, fresh = (int(total * share) for share in (TOPIC_POOL, POPULAR_POOL, FRESH_POOL))
        drawn = self._uniforms("candidates", first, len(users), 2 * topic + popular + fresh + 2)
        pick_topic, pick_item, pick_popular, pick_fresh, pick_any = np.split(
            drawn, np.cumsum([topic, topic, popular, fresh]), axis=1
        )
        pools = (
            self._from_topics(users, pick_topic, pick_item),
            self._popular.draw(pick_popular),
            self._fresh.draw(pick_fresh),
            self._spread(pick_any, total - topic - popular - fresh),
        )
        return np.sort(np.concatenate(pools, axis=1), axis=1)

    def _from_topics(self, users: np.ndarray, pick_topic: np.ndarray, pick_item: np.ndarray) -> np.ndarray:
        vectors, starts = self._population.users.seen_vector[users], self._topic_starts
        interest = tastes(vectors[:, None, :], self._population.topic_vector[None, :, :]).astype(np.float64)
        stocked = np.diff(starts) > 0
        cumulative = np.cumsum(np.where(stocked, np.exp(INTEREST * interest), 0.0), axis=1)
        goal = pick_topic * cumulative[:, -1:]
        topic = (goal[:, :, None] >= cumulative[:, None, :-1]).sum(axis=2)
        topic = np.minimum(topic, np.flatnonzero(stocked)[-1])  # a goal rounded up to the sum of all
        target = starts[topic] + pick_item * (starts[topic + 1] - starts[topic])
        index = np.searchsorted(self._topics.cumulative, target, side="right")
        return self._topics.items[np.minimum(index, self._topic_edges[topic + 1] - 1)]

    def _spread(self, uniform: np.ndarray, count: int) -> np.ndarray:
        """[n, count] distinct published items, each equally likely: from a random start by a random stride, around."""
        published = self._everything.items
        start = (uniform[:, :1] * len(published)).astype(np.int64)
        stride = 1 + (uniform[:, 1:2] * (len(published) // count)).astype(np.int64)
        return published[(start + stride * np.arange(count)) % len(published)]

    def _eligible(self, candidates: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """[n, c] bool: the first of each repeated candidate, unless shown lately; shown ones where too few are left."""
        first = np.ones(candidates.shape, bool)
        first[:, 1:] = candidates[:, 1:] != candidates[:, :-1]
        repeated = np.zeros(candidates.shape, bool)
        compact = candidates.astype(np.int32)
        for column in range(shown.shape[1]):
            repeated |= compact == shown[:, column, None]
        fresh = first & ~repeated
        enough = fresh.sum(axis=1, keepdims=True) >= self._config.slate_size
        return np.where(enough, fresh, first)

    def _uniforms(self, purpose: str, first: int, rows: int, width: int) -> np.ndarray:
        return uniforms(self._config.seed, f"{purpose} {self._day}", first, rows, width)


def plackett_luce(scores: np.ndarray, gumbel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A full Plackett-Luce ranking by the Gumbel trick (Yellott 1977): sort scores + Gumbel noise, both [n, c].

    Returns (order [n, c]: candidates best first; log_propensity [n, c]: log of the probability of each choice among
    those not chosen before). Candidates with score -inf come last, with log-propensity nan.
    """
    order = np.argsort(-(scores + gumbel), axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    remaining = np.logaddexp.accumulate(ranked[:, ::-1], axis=1)[:, ::-1]  # summed from the end: nothing cancels
    with np.errstate(invalid="ignore"):
        return order, ranked - remaining
