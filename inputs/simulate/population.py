"""Who lives in the world: users with tastes, creators, and the videos they publish."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from inputs.simulate.config import SimulateConfig
from inputs.simulate.streams import generator, scattered_ids
from inputs.simulate.words import AGE_GROUPS, REGIONS, TOPICS

SECONDS_PER_DAY = 86_400
DIMENSIONS = 16  # of the taste space
ITEMS_PER_CREATOR = 25
POPULARITY_QUALITY = 0.75  # weight of quality, beside chance of weight 1, in an item's popularity rank


@dataclass(frozen=True)
class Users:
    """Arrays over users. vector: [U, DIMENSIONS] float32 of norm 1, the taste; seen_vector: as the policy sees it."""

    ids: np.ndarray
    vector: np.ndarray
    seen_vector: np.ndarray
    activity: np.ndarray  # [U] float64: relative rate of requests
    age_group: np.ndarray
    region: np.ndarray
    device: np.ndarray


@dataclass(frozen=True)
class Items:
    """Arrays over items. vector: [I, DIMENSIONS] float32 of norm 1; log_popularity: log of r ** -exponent at rank r."""

    ids: np.ndarray
    vector: np.ndarray
    topic: np.ndarray
    creator: np.ndarray  # [I] int64 raw id of the creator
    quality: np.ndarray  # [I] float32, mean 0, deviation about 1
    clickbait: np.ndarray  # [I] float32: 0 for most, in [0.5, 1] for those with the trait
    log_popularity: np.ndarray  # [I] float64
    published: np.ndarray  # [I] int64 seconds
    duration: np.ndarray  # [I] float32 seconds


@dataclass(frozen=True)
class Population:
    """Everyone and everything, drawn from the seed before the first day."""

    users: Users
    items: Items
    topic_vector: np.ndarray  # [topics, DIMENSIONS] float32 of norm 1

    @classmethod
    def draw(cls, config: SimulateConfig) -> Population:
        rng = generator(config.seed, "topics")
        topic_vector = _unit(rng.standard_normal((len(TOPICS), DIMENSIONS)).astype(np.float32))
        topic_appeal = rng.normal(0.0, 0.5, len(TOPICS))  # log of how common a topic is
        return cls(
            _draw_users(config, topic_vector, topic_appeal),
            _draw_items(config, topic_vector, topic_appeal),
            topic_vector,
        )


def start_of(config: SimulateConfig) -> int:
    """Seconds at which the log begins."""
    return int(datetime.combine(config.start, datetime.min.time(), timezone.utc).timestamp())


def _draw_users(config: SimulateConfig, topic_vector: np.ndarray, topic_appeal: np.ndarray) -> Users:
    rng = generator(config.seed, "users")
    count = config.users
    age = rng.choice(len(AGE_GROUPS), count, p=[0.12, 0.26, 0.24, 0.17, 0.12, 0.09]).astype(np.int8)
    region = rng.integers(0, len(REGIONS), count, dtype=np.int8)
    device_shares = np.cumsum(rng.dirichlet([6.0, 1.0, 2.0, 1.0], len(AGE_GROUPS)), axis=1)
    device = (rng.random(count)[:, None] > device_shares[age, :-1]).sum(axis=1).astype(np.int8)

    by_age = rng.normal(0.0, 1.2, (len(AGE_GROUPS), len(TOPICS)))
    by_region = rng.normal(0.0, 0.6, (len(REGIONS), len(TOPICS)))
    vector = np.zeros((count, DIMENSIONS), np.float32)
    group = age.astype(np.int64) * len(REGIONS) + region
    for weight in (1.0, 0.6, 0.3):  # a user's first, second and third interest
        where = rng.random(count)
        for index in range(len(AGE_GROUPS) * len(REGIONS)):
            members = np.flatnonzero(group == index)
            logits = topic_appeal + by_age[index // len(REGIONS)] + by_region[index % len(REGIONS)]
            vector[members] += np.float32(weight) * topic_vector[_choose(logits, where[members])]
    vector = _unit(vector + _noise(rng, count, 0.4))
    activity = np.exp(np.minimum(rng.normal(0.0, 1.0, count), 3.0))
    seen_vector = _unit(vector + _noise(rng, count, config.policy_error))
    return Users(scattered_ids(config.seed, "user ids", count), vector, seen_vector, activity, age, region, device)


def _draw_items(config: SimulateConfig, topic_vector: np.ndarray, topic_appeal: np.ndarray) -> Items:
    rng = generator(config.seed, "items")
    count, creators = config.items, max(1, config.items // ITEMS_PER_CREATOR)
    main = _choose(topic_appeal, rng.random(creators))
    side = _choose(topic_appeal, rng.random(creators))
    creator_vector = _unit(topic_vector[main] + _noise(rng, creators, 0.7))
    creator_quality = rng.standard_normal(creators)

    creator = _choose(rng.normal(0.0, 1.0, creators), rng.random(count))  # heavy-tailed productivity
    topic = np.where(rng.random(count) < 0.85, main[creator], side[creator])
    vector = _unit(creator_vector[creator] + np.float32(0.6) * topic_vector[topic] + _noise(rng, count, 0.3))
    quality = (0.8 * creator_quality[creator] + 0.6 * rng.standard_normal(count)).astype(np.float32)
    baits = rng.permutation(count) < round(count * config.clickbait_share)
    clickbait = np.where(baits, rng.uniform(0.5, 1.0, count), 0.0).astype(np.float32)
    rank = np.empty(count, np.int64)  # good videos tend to be the popular ones
    rank[np.argsort(-(POPULARITY_QUALITY * quality + rng.standard_normal(count)), kind="stable")] = np.arange(
        1, count + 1
    )
    during = rng.permutation(count)
    topic_duration = rng.normal(np.log(35.0), 0.5, len(TOPICS))
    duration = np.exp(topic_duration[topic] + rng.normal(0.0, 0.5, count))
    return Items(
        ids=scattered_ids(config.seed, "item ids", count),
        vector=vector,
        topic=topic.astype(np.int16),
        creator=scattered_ids(config.seed, "creator ids", creators)[creator],
        quality=quality,
        clickbait=clickbait,
        log_popularity=-config.popularity_exponent * np.log(rank),
        published=_publication_times(config, rng, during),
        duration=np.clip(np.round(duration, 1), 5.0, 600.0).astype(np.float32),
    )


def _publication_times(config: SimulateConfig, rng: np.random.Generator, order: np.ndarray) -> np.ndarray:
    """[I] int64: the first items in `order` come out evenly during the log, the others in the months before it."""
    start, during = start_of(config), config.items_published_during_log
    before_log = start - 1 - np.minimum(rng.exponential(60.0, len(order)), 365.0) * SECONDS_PER_DAY
    in_log = start + order / max(during, 1) * config.days * SECONDS_PER_DAY
    return np.where(order < during, in_log, before_log).astype(np.int64)


def _choose(logits: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Indices drawn with probability softmax(logits), at `where` [n] in [0, 1) of the cumulative distribution."""
    cumulative = np.cumsum(np.exp(logits - logits.max()))
    return np.minimum(np.searchsorted(cumulative, where * cumulative[-1], side="right"), len(logits) - 1)


def _noise(rng: np.random.Generator, count: int, norm: float) -> np.ndarray:
    """[count, DIMENSIONS] float32 of about the given norm."""
    return rng.standard_normal((count, DIMENSIONS), np.float32) * np.float32(norm / np.sqrt(DIMENSIONS))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-6))
