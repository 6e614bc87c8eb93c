"""Versions of an index in a folder: published whole and judged, swapped by one rename, rolled back by another.

```
ROOT/current.json       which version is the current one, and those before it: replaced in one rename
ROOT/versions/0001/     an index, as it was given, and version.json: when, from where, its size, its recall
```
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from foundation.errors import UserError, damaged
from foundation.files import atomic_directory, disk_errors, read_json, sweep_partial, write_json
from retrieval.index.checks import checked_queries
from retrieval.index.sources.source import Items, Source, items_of, open_source
from retrieval.index.versions.published import judged_recall, open_index, see_index, vectors_of

POINTER, VERSIONS, ABOUT = "current.json", "versions", "version.json"
_LOCK = ".lock"
_QUERIES = 256


@dataclass(frozen=True)
class Demands:
    """What a version must be before it is published. recall: of the exact top 100, at least. smallest_share: its items,
    at least so large a share of the current version's."""

    recall: float = 0.9
    smallest_share: float = 0.5


@dataclass(frozen=True)
class Version:
    """name: "0001". made_from: the folder it was given as. published: seconds since 1970. size: items. recall: of the
    exact top 100, as judged before it was published."""

    name: str
    made_from: str
    published: float
    size: int
    dim: int
    recall: float


@dataclass(frozen=True)
class Pointer:
    """current: the current version. before: those that a rollback goes back to, the latest last. last: the highest
    number that ever was current: no name is given twice."""

    current: str
    before: tuple[str, ...]
    last: int


class Versions:
    """The versions in `root`. One process at a time publishes, rolls back or prunes (a file lock that ends with its
    process); any number read. A process killed at any moment leaves the current version current."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def pointer(self) -> Pointer | None:
        """Which version is current; None where none was published.

        Raises:
          UserError: the file that says so is damaged.
        """
        path = self.root / POINTER
        if not path.exists():
            return None
        document = read_json(path, "the current version")
        with damaged(path, f"Write it again: name one of the folders in {self.root / VERSIONS}."):
            return Pointer(str(document["current"]), tuple(map(str, document["before"])), int(document["last"]))

    def folder(self, name: str) -> Path:
        return self.root / VERSIONS / name

    def about(self, name: str) -> Version:
        path = self.folder(name) / ABOUT
        document = read_json(path, "what is known of the version")
        with damaged(path, "Publish it again."):
            return Version(**document)

    def listed(self) -> list[Version]:
        """The versions that are kept, the oldest first."""
        pointer = self.pointer()
        if pointer is None:
            return []
        names = sorted({*pointer.before, pointer.current, *self._after(pointer)})
        return [self.about(name) for name in names if (self.folder(name) / ABOUT).is_file()]

    def publish(
        self,
        folder: str | Path,
        demands: Demands | None = None,
        queries: np.ndarray | None = None,
        vectors: str | Path | None = None,
        keep: int = 3,
    ) -> Version:
        """Copies an index into `root`, judges the copy, and makes it the current version.

        demands: what it must be. queries: [Q, D] that recall is judged on (default: some of its own vectors). vectors:
        the source that it was built from, where it does not hold its vectors in float32. keep: so many versions, the
        current one included; older ones are removed.

        Raises:
          UserError: it is no index, a file of it is damaged, it falls short of the demands; the current version stays.
        """
        folder, demands = Path(folder), demands or Demands()
        self._see_given(folder)
        source = None if vectors is None else open_source(vectors)
        with self._alone():
            pointer = self.pointer()
            self._remove_unpublished(pointer)
            last = 0 if pointer is None else pointer.last
            name = f"{last + 1:04d}"
            with atomic_directory(self.folder(name)) as copy, disk_errors(self.folder(name)):
                shutil.copytree(folder, copy, dirs_exist_ok=True)
                version = self._judged(name, folder, copy, demands, pointer, queries, source)
                write_json(copy / ABOUT, asdict(version))
            before = () if pointer is None else (*pointer.before, pointer.current)
            self._point(Pointer(name, before, last + 1))
            self._prune(keep)
        return version

    def _see_given(self, folder: Path) -> None:
        """Before anything is made: that a folder holds an index, and not `root` too, which would be copied into
        itself."""
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder.", "Give the folder of an index.")
        see_index(folder)
        if self.root.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{self.root}: lies in {folder}, which is to be published.", "Name another root.")

    def rollback(self) -> tuple[str, str]:
        """Makes the version before the current one current again. Returns (the name it left, the name it went to).

        Raises:
          UserError: there is none before it, or that one is damaged.
        """
        if self.pointer() is None:  # nor is anything made there
            raise UserError(f"{self.root}: no version is published here.", "headrace index publish ROOT FOLDER")
        with self._alone():
            pointer = self.pointer()
            if pointer is None or not pointer.before:
                raise UserError(f"{self.root}: there is no version to go back to.", "Publish another.")
            open_index(self.folder(pointer.before[-1]))  # sees to every file of it
            self._point(Pointer(pointer.before[-1], pointer.before[:-1], pointer.last))
            return pointer.current, pointer.before[-1]

    def _judged(
        self,
        name: str,
        folder: Path,
        copy: Path,
        demands: Demands,
        pointer: Pointer | None,
        queries: np.ndarray | None,
        source: Source | None,
    ) -> Version:
        index = open_index(copy)

        def items() -> Items:
            return vectors_of(copy) if source is None else items_of(source)

        if queries is not None:
            queries = checked_queries(queries, 1, index.dim)
        if not index.size:
            raise UserError(f"{folder}: the index is empty.", "Publish one with items.")
        if pointer is not None and index.size < demands.smallest_share * self.about(pointer.current).size:
            raise UserError(
                f"{folder}: {index.size:,} items, less than {demands.smallest_share:g} of the "
                f"{self.about(pointer.current).size:,} of version {pointer.current}.",
                "Look for what is missing; if it is meant, publish with --smallest-share 0.",
            )
        asked = _sample(items(), index.size) if queries is None else queries
        recall, count = judged_recall(index, items(), asked)
        if count != index.size:
            raise UserError(f"{folder}: {index.size:,} items are searched, {count:,} are held.", "Build it again.")
        if recall < demands.recall:
            raise UserError(
                f"{folder}: recall {recall:.3f} on {len(asked)} queries, at least {demands.recall:g} is wanted.",
                "Build it with a higher target recall.",
            )
        return Version(name, str(folder), time.time(), index.size, index.dim, recall)

    def _prune(self, keep: int) -> None:
        pointer = self.pointer()
        if pointer is None or keep < 1:
            return
        kept = pointer.before[len(pointer.before) - min(keep - 1, len(pointer.before)) :]
        if kept != pointer.before:
            self._point(Pointer(pointer.current, kept, pointer.last))  # nothing points at what is then removed
        for path in sorted((self.root / VERSIONS).iterdir()):
            if path.is_dir() and path.name not in (*kept, pointer.current):
                shutil.rmtree(path)

    def _remove_unpublished(self, pointer: Pointer | None) -> None:
        """What a killed publisher left: half-written copies, and whole ones that it did not come to point at."""
        (self.root / VERSIONS).mkdir(parents=True, exist_ok=True)
        sweep_partial(self.root)
        sweep_partial(self.root / VERSIONS)
        last = 0 if pointer is None else pointer.last
        for path in (self.root / VERSIONS).iterdir():
            if path.name.isdigit() and int(path.name) > last:
                shutil.rmtree(path)

    def _after(self, pointer: Pointer) -> list[str]:
        """Versions on the disk that were rolled back from."""
        names = [path.name for path in (self.root / VERSIONS).glob("*") if path.name.isdigit()]
        return [name for name in names if int(name) <= pointer.last]

    def _point(self, pointer: Pointer) -> None:
        write_json(self.root / POINTER, {**asdict(pointer), "before": list(pointer.before)})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / _LOCK).open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.root}: another process publishes or rolls back here.", "Wait until it is done."
                ) from error
            yield


def _sample(items: Items, size: int) -> np.ndarray:
    """Vectors of an index [up to 256, D], evenly taken."""
    every = max(size // _QUERIES, 1)
    taken, first = [], 0
    for ids, vectors in items:
        taken.append(vectors[-first % every :: every])
        first += len(ids)
    return np.concatenate(taken)[:_QUERIES]
