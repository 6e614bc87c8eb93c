"""How users respond to what they are shown. The simulation draws from these probabilities; the truth reports them.

click = examined and attracted. Examination falls with the position (the position-based model of Craswell et al. 2008,
"An experimental comparison of click position-bias models"); attraction grows with taste, popularity and clickbait and
falls with age; what a click leads to (watch time, a like) hangs on satisfaction, which clickbait lowers.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, ndtri

from inputs.simulate.config import SimulateConfig
from inputs.simulate.population import SECONDS_PER_DAY, Items

ATTRACTION_BIAS, ATTRACTION_TASTE, ATTRACTION_POPULARITY = -2.8, 6.0, 0.25
SATISFACTION_BIAS, SATISFACTION_TASTE, SATISFACTION_QUALITY, SATISFACTION_CLICKBAIT = -1.8, 4.5, 0.7, 1.5
LIKE_IF_SATISFIED, LIKE_OTHERWISE = 0.25, 0.01
WATCH_LOGIT, WATCH_SPREAD = 1.2, 0.8


def examination(positions: np.ndarray, config: SimulateConfig) -> np.ndarray:
    """Probability that an item at a position (0 first) is looked at."""
    return (1.0 + positions) ** -config.position_decay


def appeal(items: Items, config: SimulateConfig) -> np.ndarray:
    """[I] float32: the part of the logit of attraction that is the same for every user."""
    popularity = items.log_popularity - items.log_popularity.mean()
    return (ATTRACTION_POPULARITY * popularity + config.clickbait_strength * items.clickbait).astype(np.float32)


def novelty(ages: np.ndarray, config: SimulateConfig) -> np.ndarray:
    """What is left of an item's attraction at an age in seconds: 1 when new, 1 - novelty_drop in the end."""
    days = np.maximum(ages, 0) / SECONDS_PER_DAY
    return 1.0 - config.novelty_drop * (1.0 - 0.5 ** (days / config.novelty_half_life_days))


def attraction(taste: np.ndarray, appeals: np.ndarray, ages: np.ndarray, config: SimulateConfig) -> np.ndarray:
    """Probability of clicking an item that was examined. taste: the dot product of user and item vectors."""
    return expit(ATTRACTION_BIAS + ATTRACTION_TASTE * taste.astype(np.float64) + appeals) * novelty(ages, config)


def satisfaction(taste: np.ndarray, quality: np.ndarray, clickbait: np.ndarray, config: SimulateConfig) -> np.ndarray:
    """Probability that a view, once clicked, satisfies."""
    logit = SATISFACTION_BIAS + SATISFACTION_TASTE * taste.astype(np.float64) + SATISFACTION_QUALITY * quality
    return expit(logit - SATISFACTION_CLICKBAIT * config.clickbait_strength * clickbait)


def watched(satisfied: np.ndarray, duration: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """float32 seconds watched of a clicked video: logit-normal share of its duration."""
    mean = np.where(satisfied, WATCH_LOGIT, -WATCH_LOGIT)
    share = expit(mean + WATCH_SPREAD * ndtri(np.clip(uniform, 1e-12, 1.0 - 1e-12)))
    return np.round(duration * share, 1).astype(np.float32)


def liked(satisfied: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """bool: a like after a click."""
    return uniform < np.where(satisfied, LIKE_IF_SATISFIED, LIKE_OTHERWISE)


def tastes(user_vectors: np.ndarray, item_vectors: np.ndarray) -> np.ndarray:
    """[...] float32 dot products over the last axis: not by BLAS, whose last bit hangs on the number of rows."""
    return np.einsum("...d,...d->...", user_vectors, item_vectors, optimize=False)
