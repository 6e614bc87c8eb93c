"""The traps of a simulated world, measured from its logs alone, beside the parameters that made them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import minimize
from scipy.stats import spearmanr

from inputs.dataset import Dataset
from inputs.schema import ITEM, TIME, USER
from inputs.simulate.policy import EXPLORE, SURFACES, TRENDING
from inputs.simulate.population import SECONDS_PER_DAY
from inputs.simulate.truth import Truth

AGE_BINS_PER_DAY, MAX_AGE_DAYS = 2, 400
ITEM_MIN_IMPRESSIONS = 30  # items shown less often have no click rate worth ranking
MIN_EXPECTED_COUNT = 5.0  # ranks drawn less often have no frequency worth fitting


def measure(dataset: Dataset) -> dict[str, tuple[float | None, float]]:
    """{trap: (parameter or None, its value measured from the logs)}; nan where the log is too thin.

    position_decay, novelty_half_life_days, novelty_drop: from the explore surface, where what stands at a position is
    drawn uniformly, so that neither position nor age is confounded with taste: maximum likelihood of clicks, Poisson
    with rate c (1 + position) ** -decay (1 - drop (1 - 2 ** (-age / half-life))).
    popularity_exponent: from the first positions of the trending surface, drawn from the Zipf law itself: maximum
    likelihood of the counts by rank, an item's rank being that of its count over the days it was there to be drawn.
    clickbait_share: share of explore impressions that went to items with the trait (the truth names them).
    clickbait_share_of_clicks: of all clicks. click_rate: clicks over impressions.
    click_satisfaction_rank_correlation: Spearman's, over items shown at least ITEM_MIN_IMPRESSIONS times, between click
    rate and true satisfaction, averaged over the impressions.

    Raises:
      UserError: the dataset has no truth beside it.
    """
    truth = Truth.open(dataset.path)
    config = truth.config
    tally = _tally(dataset, truth)
    decay, half_life, drop = _fit_clicks(tally.explore_shown, tally.explore_clicks)
    counted = tally.shown >= ITEM_MIN_IMPRESSIONS
    rates = tally.clicks[counted] / tally.shown[counted]
    correlation = (
        spearmanr(rates, tally.satisfaction[counted] / tally.shown[counted]).statistic if counted.any() else np.nan
    )
    bait = truth.items.clickbait > 0
    return {
        "position_decay": (config.position_decay, decay),
        "popularity_exponent": (config.popularity_exponent, _fit_zipf(tally.trending_first, tally.days_there)),
        "novelty_half_life_days": (config.novelty_half_life_days, half_life),
        "novelty_drop": (config.novelty_drop, drop),
        "clickbait_share": (config.clickbait_share, _ratio(tally.explore_items[bait].sum(), tally.explore_items.sum())),
        "clickbait_share_of_clicks": (None, _ratio(tally.clicks[bait].sum(), tally.clicks.sum())),
        "click_rate": (None, _ratio(tally.clicks.sum(), tally.shown.sum())),
        "click_satisfaction_rank_correlation": (None, float(correlation)),
    }


@dataclass
class _Tally:
    """Counts over the log; arrays over items unless said otherwise."""

    shown: np.ndarray
    clicks: np.ndarray
    satisfaction: np.ndarray  # sum of true satisfaction over the impressions
    explore_items: np.ndarray
    trending_first: np.ndarray  # times drawn at the first position of the trending surface
    days_there: np.ndarray  # days of the log on which the item could be drawn
    explore_shown: np.ndarray  # [positions, age bins]
    explore_clicks: np.ndarray


def _tally(dataset: Dataset, truth: Truth) -> _Tally:
    config, items = truth.config, truth.items
    count = len(items.ids)
    bins = (config.slate_size, MAX_AGE_DAYS * AGE_BINS_PER_DAY)
    start = dataset.time_range[0] // SECONDS_PER_DAY * SECONDS_PER_DAY
    first_day = np.maximum(np.floor_divide(items.published - start, SECONDS_PER_DAY) + 1, 0)
    tally = _Tally(
        shown=np.zeros(count),
        clicks=np.zeros(count),
        satisfaction=np.zeros(count),
        explore_items=np.zeros(count),
        trending_first=np.zeros(count),
        days_there=config.days - first_day,
        explore_shown=np.zeros(bins),
        explore_clicks=np.zeros(bins),
    )
    for table in dataset.scan([USER, ITEM, TIME, "position", "surface", "click"]):
        item = truth.items_at(table.column(ITEM).to_numpy())
        click = table.column("click").to_numpy().astype(np.float64)
        position = table.column("position").to_numpy()
        surface = _codes(table.column("surface"))
        satisfied = truth.satisfaction(table.column(USER).to_numpy(), table.column(ITEM).to_numpy())
        explore = surface == EXPLORE
        first_trending = (surface == TRENDING) & (position == 0)
        np.add.at(tally.shown, item, 1.0)
        np.add.at(tally.clicks, item, click)
        np.add.at(tally.satisfaction, item, satisfied)
        np.add.at(tally.explore_items, item[explore], 1.0)
        np.add.at(tally.trending_first, item[first_trending], 1.0)
        age = (table.column(TIME).to_numpy() - items.published[item]) * AGE_BINS_PER_DAY // SECONDS_PER_DAY
        cell = position[explore].astype(np.int64) * bins[1] + np.minimum(age[explore], bins[1] - 1)
        tally.explore_shown += np.bincount(cell, minlength=bins[0] * bins[1]).reshape(bins)
        tally.explore_clicks += np.bincount(cell, click[explore], bins[0] * bins[1]).reshape(bins)
    return tally


def _fit_clicks(shown: np.ndarray, clicks: np.ndarray) -> tuple[float, float, float]:
    """(position decay, half-life in days, drop) by maximum likelihood, from counts [positions, age bins]."""
    if clicks.sum() == 0:
        return (np.nan, np.nan, np.nan)
    log_place = np.log1p(np.arange(len(shown)))[:, None]
    age = ((np.arange(shown.shape[1]) + 0.5) / AGE_BINS_PER_DAY)[None, :]

    def loss(parameters: np.ndarray) -> float:
        decay, log_half_life, drop_logit = parameters
        drop = 1.0 / (1.0 + np.exp(-drop_logit))
        shape = np.exp(-decay * log_place) * (1.0 - drop * (1.0 - 0.5 ** (age / np.exp(log_half_life))))
        # the rate's scale has its maximum in closed form: clicks over the shape's sum
        return float(clicks.sum() * np.log((shown * shape).sum()) - (clicks * np.log(shape)).sum())

    starts = [np.array([0.5, np.log(days), 0.0]) for days in (1.0, 5.0, 20.0)]
    fits = [minimize(loss, start, method="Nelder-Mead", options={"maxiter": 2_000}) for start in starts]
    decay, log_half_life, drop_logit = min(fits, key=lambda fit: fit.fun).x
    return float(decay), float(np.exp(log_half_life)), float(1.0 / (1.0 + np.exp(-drop_logit)))


def _fit_zipf(drawn: np.ndarray, days: np.ndarray) -> float:
    """The exponent by maximum likelihood over the head: the ranks drawn at least MIN_EXPECTED_COUNT times."""
    there = days > 0
    rates = drawn[there] / days[there]
    order = np.argsort(-rates, kind="stable")
    drawn, days = drawn[there][order], days[there][order].astype(np.float64)
    head = np.flatnonzero(drawn < MIN_EXPECTED_COUNT)
    size = int(head[0]) if len(head) else len(drawn)
    if size < 3:
        return np.nan
    drawn, days, log_rank = drawn[:size], days[:size], np.log(np.arange(1, size + 1))

    def loss(parameters: np.ndarray) -> float:
        shape = days * np.exp(-parameters[0] * log_rank)
        return float(drawn.sum() * np.log(shape.sum()) + parameters[0] * (drawn * log_rank).sum())

    return float(minimize(loss, np.array([1.0]), method="Nelder-Mead").x[0])


def _codes(surface: pa.ChunkedArray) -> np.ndarray:
    """[n] int: index in SURFACES."""
    return pc.index_in(surface, value_set=pa.array(SURFACES)).to_numpy()


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan
