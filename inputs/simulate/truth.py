"""What real logs never show: everyone's true tastes, and so what anyone would think of any video."""

from __future__ import annotations

import zipfile
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from foundation.errors import UserError
from foundation.files import atomic_directory
from inputs.simulate import behaviour
from inputs.simulate.config import SimulateConfig
from inputs.simulate.population import Items, Population, Users

_Traits = TypeVar("_Traits", Users, Items)


class Truth:
    """The latent world behind a simulated log, for judging the judges. It takes raw ids, as the log writes them.

    config: the world's parameters. users, items: their latent traits, arrays in the order of `users.ids`, `items.ids`.
    """

    def __init__(self, users: Users, items: Items, config: SimulateConfig) -> None:
        self.users, self.items, self.config = users, items, config

    @classmethod
    def open(cls, path: str | Path) -> Truth:
        """Reads the truth of the dataset folder `path`.

        Raises:
          UserError: the folder holds none (a real log never does), or it is damaged.
        """
        folder = Path(path) / "truth"
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no truth here: only a simulated world has one.",
                "Name a dataset folder that `headrace data simulate` wrote.",
            )
        try:
            config = SimulateConfig.model_validate_json((folder / "config.json").read_text())
            return cls(_read(folder / "users.npz", Users), _read(folder / "items.npz", Items), config)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, ValidationError) as error:
            raise UserError(f"{folder}: this truth is damaged ({error}).", "Simulate the world again.") from error

    def satisfaction(self, user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        """[n] float64: the probability that user i, having clicked item i, is satisfied by the view.

        Raises:
          UserError: an id is not of this world.
        """
        users, items = self.users_at(user_ids), self.items_at(item_ids)
        taste = behaviour.tastes(self.users.vector[users], self.items.vector[items])
        return behaviour.satisfaction(taste, self.items.quality[items], self.items.clickbait[items], self.config)

    def click_probability(
        self, user_ids: np.ndarray, item_ids: np.ndarray, positions: np.ndarray, times: np.ndarray
    ) -> np.ndarray:
        """[n] float64: the probability that user i clicks item i, shown at position i (0 first) at time i (seconds).

        Raises:
          UserError: an id is not of this world.
        """
        users, items = self.users_at(user_ids), self.items_at(item_ids)
        taste = behaviour.tastes(self.users.vector[users], self.items.vector[items])
        ages = np.asarray(times) - self.items.published[items]
        attracted = behaviour.attraction(taste, self._appeal[items], ages, self.config)
        return behaviour.examination(np.asarray(positions), self.config) * attracted

    def is_clickbait(self, item_ids: np.ndarray) -> np.ndarray:
        """[n] bool: whether the item has the clickbait trait."""
        return self.items.clickbait[self.items_at(item_ids)] > 0

    @cached_property
    def _appeal(self) -> np.ndarray:
        return behaviour.appeal(self.items, self.config)

    def users_at(self, ids: np.ndarray) -> np.ndarray:
        """[n] indices in `users.ids` of raw ids."""
        return _find(ids, self.users.ids, self._user_order, "user")

    def items_at(self, ids: np.ndarray) -> np.ndarray:
        """[n] indices in `items.ids` of raw ids."""
        return _find(ids, self.items.ids, self._item_order, "item")

    @cached_property
    def _user_order(self) -> np.ndarray:
        return np.argsort(self.users.ids)

    @cached_property
    def _item_order(self) -> np.ndarray:
        return np.argsort(self.items.ids)


def write_truth(path: Path, population: Population, config: SimulateConfig) -> None:
    """Writes what `Truth` reads."""
    with atomic_directory(path) as folder:
        _write(folder / "users.npz", population.users)
        _write(folder / "items.npz", population.items)
        (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n")


def _write(path: Path, traits: Users | Items) -> None:
    arrays = {field.name: getattr(traits, field.name) for field in fields(traits)}
    np.savez(path, **arrays)


def _read(path: Path, kind: type[_Traits]) -> _Traits:
    with np.load(path, allow_pickle=False) as arrays:
        return kind(**{field.name: arrays[field.name] for field in fields(kind)})


def _find(ids: np.ndarray, known: np.ndarray, order: np.ndarray, what: str) -> np.ndarray:
    """Indices in `known` of raw ids; `order` sorts `known`."""
    ids = np.asarray(ids)
    index = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    strange = known[index] != ids
    if np.any(strange):
        raise UserError(f"{what} {ids[strange][0]} is not of this world.", f"Take {what} ids from the world's own log.")
    return index
