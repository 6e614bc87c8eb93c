"""A reader of published versions: searches the current one, and takes up the next while searches go on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from foundation.background import Background
from foundation.errors import UserError
from retrieval.index.versions.published import Opened, open_index
from retrieval.index.versions.versions import Versions

_TRIED_AGAIN = 30.0  # seconds after a version that could not be read, so that it is not read without end


@dataclass(frozen=True)
class _Held:
    name: str
    index: Opened


class VersionedIndex:
    """The current version of `root`, in this process or any other.

    A search is answered by one version from end to end: one under way stays with the version it began with. A version
    that cannot be read leaves the one before it in service, and `failure` says why. Searches of this process wait
    while ScaNN reads a version (about 2 s for 1 M x 64). Close it, or use it as a context manager, to stop looking.
    """

    def __init__(self, root: str | Path, poll_seconds: float = 1.0, threads: int | None = None) -> None:
        """poll_seconds: between looks at which version is current; 0: only `refresh` looks.

        Raises:
          UserError: none was published, or the current one is damaged.
        """
        self._versions, self._threads = Versions(root), threads
        self._refreshing, self._closed = threading.Lock(), threading.Event()
        self._refused: tuple[str, float] | None = None
        self.failure: str | None = None
        self._held = self._opened()
        self._poll = Background(lambda: self._watch(poll_seconds)) if poll_seconds > 0 else None

    @property
    def version(self) -> str:
        """The name of the version that the next search is answered by."""
        return self._held.name

    @property
    def size(self) -> int:
        return self._held.index.size

    @property
    def dim(self) -> int:
        return self._held.index.dim

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As the index's own `search`: (ids [Q, k] int64, scores [Q, k] float32)."""
        return self._held.index.search(queries, k)

    def search_with_version(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, str]:
        """The same, and the name of the version that answered."""
        held = self._held
        return (*held.index.search(queries, k), held.name)

    def refresh(self) -> bool:
        """Takes up the current version if it is another; returns whether it was.

        Raises:
          UserError: it cannot be read; the one before stays in service.
        """
        with self._refreshing:
            pointer = self._versions.pointer()
            if pointer is None:
                return False
            changed = pointer.current != self._held.name
            if changed:
                self._held = self._opened()
            self.failure = None
            return changed

    def _opened(self) -> _Held:
        while True:
            pointer = self._versions.pointer()
            if pointer is None:
                raise UserError(
                    f"{self._versions.root}: no version is published here.", "headrace index publish ROOT FOLDER"
                )
            try:
                return _Held(pointer.current, open_index(self._versions.folder(pointer.current), self._threads))
            except (UserError, OSError):
                if self._versions.pointer() == pointer:
                    raise
                # It was pruned while being read: another is current by now.

    def _watch(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            name = ""
            try:
                pointer = self._versions.pointer()
                name = "" if pointer is None else pointer.current
                if self._refused is not None and self._refused[0] == name and time.monotonic() < self._refused[1]:
                    continue
                self.refresh()
                self._refused = None
            except Exception as error:  # the one before stays in service, whatever ails this one (memory, say)
                self.failure, self._refused = str(error) or repr(error), (name, time.monotonic() + _TRIED_AGAIN)

    def close(self) -> None:
        """Stops looking; searches go on being answered."""
        self._closed.set()
        if self._poll is not None:
            self._poll.join()

    def __enter__(self) -> VersionedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
