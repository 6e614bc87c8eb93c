"""Checkpoints of a model without its tables, which `save_tables` writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from foundation.tf import tf

_left_out = ContextVar("tables_left_out", default=False)


def tables_left_out() -> bool:
    """Whether what a layer tracks is asked for by a DenseCheckpoint."""
    return _left_out.get()


class DenseCheckpoint:
    """A tf.train.Checkpoint of objects, such as a model and its optimizer, that holds every variable but those of their
    ShardedEmbedding layers' tables, slot variables and step counters: what is the same on every rank.

    An optimizer's own variables must exist (`optimizer.build`) before anything is read.
    """

    def __init__(self, **roots: Any) -> None:
        self._checkpoint = tf.train.Checkpoint(**roots)

    def write(self, prefix: str) -> str:
        """As tf.train.Checkpoint.write."""
        with _without_tables():
            return self._checkpoint.write(prefix)

    def read(self, prefix: str) -> None:
        """Reads every variable.

        Raises:
          tf.errors.OpError: the files are missing or damaged. AssertionError, ValueError: they are of other objects.
        """
        with _without_tables():
            self._checkpoint.read(prefix).assert_existing_objects_matched().expect_partial()


@contextlib.contextmanager
def _without_tables() -> Iterator[None]:
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)
