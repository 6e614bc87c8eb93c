"""The one gateway to TensorFlow Ranking: `from ranking.tfr import losses, metrics`.

TensorFlow Ranking 0.5.5, its last release, imports `tf.estimator`, which TensorFlow dropped in 2.16; that is all that
keeps it from loading on 2.20, and its Keras losses and metrics never touch it. So the library is imported while
`tf.estimator` is a module of placeholders; afterwards TensorFlow is left as it was found.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import types
from collections.abc import Iterator
from typing import Any

from foundation.errors import UserError
from foundation.tf import tf


class _PlaceholderType(type):
    """A class whose every attribute is another placeholder class: `estimator.ModeKeys.TRAIN` is one, and a library
    may derive from it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _PlaceholderType(name, (), {})


class _PlaceholderModule(types.ModuleType):
    """A module whose every attribute is a placeholder class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _PlaceholderType(name, (), {})


@contextlib.contextmanager
def _estimator_placeholders() -> Iterator[None]:
    """Stands placeholders in for `tf.estimator` and `tf.compat.v1.estimator` where TensorFlow has none."""
    placed = []
    for parent in (tf, tf.compat.v1):
        if not hasattr(parent, "estimator"):
            parent.estimator = _PlaceholderModule("tensorflow.estimator")
            placed.append(parent)
    try:
        yield
    finally:
        for parent in placed:
            del parent.estimator


def _load() -> types.ModuleType:
    try:
        with _estimator_placeholders():
            return importlib.import_module("tensorflow_ranking")
    except ImportError as error:
        raise UserError(
            f"TensorFlow Ranking cannot be imported ({error}).",
            "Run `make setup`: it installs tensorflow-ranking 0.5.5 with --no-deps, which pip alone will not.",
        ) from error


_library = _load()
losses = _library.keras.losses
metrics = _library.keras.metrics
version: str = importlib.metadata.version("tensorflow-ranking")

__all__ = ["losses", "metrics", "version"]
