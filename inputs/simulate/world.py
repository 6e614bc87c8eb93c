"""The simulated world: a short-video platform's logs, day by day, and the truth behind them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from foundation.files import atomic_directory
from inputs.dataset import Dataset, DatasetWriter
from inputs.schema import Feature, Label, Schema
from inputs.simulate import behaviour
from inputs.simulate.calendar import Calendar, Requests
from inputs.simulate.config import SimulateConfig
from inputs.simulate.policy import EXPLORE, FOR_YOU, SURFACES, TRENDING, Policy
from inputs.simulate.population import Items, Population, Users
from inputs.simulate.streams import generator, uniforms
from inputs.simulate.truth import write_truth
from inputs.simulate.words import AGE_GROUPS, DEVICES, REGIONS, TOPICS, titles

SCHEMA = Schema(
    user_features=(
        Feature(name="age_group", kind="category"),
        Feature(name="region", kind="category"),
        Feature(name="device", kind="category"),
    ),
    item_features=(
        Feature(name="topic", kind="category"),
        Feature(name="creator", kind="category"),
        Feature(name="duration_seconds", kind="number"),
        Feature(name="published", kind="time"),
        Feature(name="title", kind="text"),
    ),
    context_features=(
        Feature(name="position", kind="category"),
        Feature(name="surface", kind="text"),
        Feature(name="propensity", kind="logged"),
    ),
    labels=(
        Label(name="click", kind="binary"),
        Label(name="watch_seconds", kind="number"),
        Label(name="like", kind="binary"),
    ),
)
LISTS_PER_CHUNK = 4_096  # requests answered at once: bounds memory, changes nothing
ROWS_PER_WRITE = 100_000  # rows of a row group: part of what the bytes are


def simulate(config: SimulateConfig, path: str | Path, advance: Callable[[int], None] = lambda rows: None) -> Dataset:
    """Writes the world's logs to the folder `path`, and to `path/truth` what `Truth` reads. The folder appears whole or
    not at all; one that stands there is replaced. The same configuration gives the same bytes.

    The log: `position` (0 first), `surface` and `propensity` (see `policy`); `click`, and where there was one
    `watch_seconds` and `like` (null elsewhere). All rows of a list share their timestamp. advance: called with the
    number of rows after each piece written.

    Raises:
      UserError: the disk refuses.
    """
    population = Population.draw(config)
    with atomic_directory(path) as folder:
        with DatasetWriter(folder, SCHEMA, source=f"simulated world, seed {config.seed}") as writer:
            writer.write_users(_users_table(population.users))
            writer.write_items(_items_table(population.items, config))
            for day in _days(population, config):
                for table in day:
                    writer.write_events(table)
                    advance(table.num_rows)
        write_truth(folder / "truth", population, config)
    return Dataset.open(path)


def _days(population: Population, config: SimulateConfig) -> Iterator[Iterator[pa.Table]]:
    """For each day, its events in pieces."""
    calendar, policy = Calendar(population.users, config), Policy(population, config)
    shown = np.full((config.users, config.no_repeat), -1, np.int32)
    for day in range(config.days):
        requests = calendar.requests(day)
        policy.open_day(day, calendar.midnight(day))
        slates, propensities = _answer(policy, requests, shown, config)
        yield _events(population, requests, slates, propensities, config)


def _answer(
    policy: Policy, requests: Requests, shown: np.ndarray, config: SimulateConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(items, propensities), each [requests, slate_size], of a day. `shown` [users, no_repeat] is brought up to date.

    A user's first requests of the day are answered before anyone's second: within a turn no user stands twice, so what
    was shown is up to date however large the chunks are.
    """
    shape = (len(requests.users), config.slate_size)
    slates, propensities = np.empty(shape, np.int32), np.empty(shape, np.float32)
    for surface, draw in ((TRENDING, policy.trending), (EXPLORE, policy.explore)):
        lists = np.flatnonzero(requests.surfaces == surface)
        for start in range(0, len(lists), LISTS_PER_CHUNK):
            chunk = lists[start : start + LISTS_PER_CHUNK]
            slates[chunk], propensities[chunk] = draw(start, len(chunk))
    by_turn = np.argsort(requests.turn, kind="stable")
    is_feed = requests.surfaces[by_turn] == FOR_YOU
    edges = np.concatenate([[0], np.cumsum(np.bincount(requests.turn))])
    answered = 0
    for turn_start, turn_stop in itertools.pairwise(edges):
        for start in range(turn_start, turn_stop, LISTS_PER_CHUNK):
            stop = min(start + LISTS_PER_CHUNK, turn_stop)
            chunk = by_turn[start:stop]
            feed = chunk[is_feed[start:stop]]
            users = requests.users[feed]
            slates[feed], propensities[feed] = policy.feed(answered, users, shown[users])
            answered += len(feed)
            users = requests.users[chunk]
            shown[users] = np.concatenate([slates[chunk], shown[users]], axis=1)[:, : config.no_repeat]
    return slates, propensities


def _events(
    population: Population, requests: Requests, slates: np.ndarray, propensities: np.ndarray, config: SimulateConfig
) -> Iterator[pa.Table]:
    """The day's events, responses drawn, in pieces of about ROWS_PER_WRITE."""
    appeals = behaviour.appeal(population.items, config)
    size = max(1, ROWS_PER_WRITE // config.slate_size)
    for start in range(0, len(slates), size):
        stop = min(start + size, len(slates))
        piece = requests.between(start, stop)
        yield _respond(population, appeals, piece, slates[start:stop], propensities[start:stop], config)


def _respond(
    population: Population,
    appeals: np.ndarray,
    requests: Requests,
    slates: np.ndarray,
    propensities: np.ndarray,
    config: SimulateConfig,
) -> pa.Table:
    """Events of the given requests: what was shown, and the users' responses to it."""
    users, times, first_list = requests.users, requests.times, requests.first_list
    items, (lists, size) = population.items, slates.shape
    draws = uniforms(config.seed, "responses", first_list, lists, 4 * size).reshape(lists, 4, size)
    positions = np.broadcast_to(np.arange(size), slates.shape)
    taste = behaviour.tastes(population.users.vector[users][:, None, :], items.vector[slates])
    attracted = behaviour.attraction(taste, appeals[slates], times[:, None] - items.published[slates], config)
    click = draws[:, 0] < behaviour.examination(positions, config) * attracted
    satisfied = draws[:, 1] < behaviour.satisfaction(taste, items.quality[slates], items.clickbait[slates], config)
    watch = behaviour.watched(satisfied, items.duration[slates], draws[:, 2])
    like = behaviour.liked(satisfied, draws[:, 3])
    unseen = ~click.ravel()
    return pa.table(
        {
            "user_id": np.repeat(population.users.ids[users], size),
            "item_id": items.ids[slates.ravel()],
            "timestamp": np.repeat(times, size),
            "list_id": np.repeat(np.arange(first_list, first_list + lists), size),
            "position": positions.ravel().astype(np.int8),
            "surface": _words(np.repeat(requests.surfaces, size), SURFACES),
            "propensity": propensities.ravel(),
            "click": click.ravel().astype(np.int8),
            "watch_seconds": pa.array(watch.ravel(), mask=unseen),
            "like": pa.array(like.ravel().astype(np.int8), mask=unseen),
        }
    )


def _users_table(users: Users) -> pa.Table:
    return pa.table(
        {
            "user_id": users.ids,
            "age_group": _words(users.age_group, AGE_GROUPS),
            "region": _words(users.region, REGIONS),
            "device": _words(users.device, DEVICES),
        }
    )


def _items_table(items: Items, config: SimulateConfig) -> pa.Table:
    word, form = generator(config.seed, "titles").integers(0, 2**31, (2, len(items.ids)))
    return pa.table(
        {
            "item_id": items.ids,
            "topic": _words(items.topic, TOPICS),
            "creator": items.creator,
            "duration_seconds": items.duration,
            "published": items.published,
            "title": titles(items.topic, word, form, np.arange(1, len(items.ids) + 1)),
        }
    )


def _words(codes: np.ndarray, words: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(words)).cast(pa.string())
