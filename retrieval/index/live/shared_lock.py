"""A lock that many readers hold together and one writer alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Readers hold it together; a writer holds it alone, and readers that come while one waits wait behind it, so that
    no stream of readers keeps it out. Not re-entrant."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writers_waiting = 0
        self._written = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            while self._written or self._writers_waiting:
                self._changed.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if not self._readers:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._writers_waiting += 1
            try:
                while self._written or self._readers:
                    self._changed.wait()
            finally:
                self._writers_waiting -= 1
            self._written = True
        try:
            yield
        finally:
            with self._changed:
                self._written = False
                self._changed.notify_all()
