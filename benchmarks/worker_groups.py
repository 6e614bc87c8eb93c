"""Workers that train one model together: a process each, each pinned to a core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from benchmarks.peers import Peer
from foundation.errors import UserError
from foundation.memory import kept_memory_environment

_Result = TypeVar("_Result")


class WorkerGroup:
    """One process a worker, asked all at once. A context manager."""

    def __init__(self, command: Sequence[str], what: str, environments: Sequence[Mapping[str, str]]) -> None:
        """Starts a worker for each of `environments`, variables besides this process' own, worker k on the k-th core.
        All keep freed memory, as headrace's training does.

        Raises:
          PeerMissing: a worker does not load.
          UserError: there are fewer cores than workers.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(environments) > len(cores):
            raise UserError(
                f"{what} was not measured: {len(environments)} workers want a core each, here is {len(cores)}"
            )

        def start(worker: int) -> None:
            with _pinned(cores[worker]):  # a child's cores are those of the thread that starts it
                environment = {**kept_memory_environment(), **environments[worker]}
                self._workers[worker] = Peer(command, f"{what}, worker {worker}", environment)

        self.size = len(environments)
        self._workers: dict[int, Peer] = {}
        self._pool = ThreadPoolExecutor(self.size)
        try:
            self._all(start)
        except BaseException:
            self._close()
            raise

    @property
    def facts(self) -> dict[str, Any]:
        """What the first worker says of itself."""
        return self._workers[0].facts

    def ask(self, question: Mapping[str, Any], of_each: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """Each worker's answer to a question, put to all at the same time. of_each: what is each one's own of it.

        Raises:
          PeerMissing: a worker ended without an answer; then none is left.
        """

        def put(worker: int) -> dict[str, Any]:
            own = of_each[worker] if of_each else {}
            return self._workers[worker].ask({**question, **own})

        return self._all(put)

    def _all(self, work: Callable[[int], _Result]) -> list[_Result]:
        """What `work` gives of each worker's number, all at the same time; if it fails of one, the others are ended."""
        failures: list[BaseException] = []

        def guarded(worker: int) -> _Result | None:
            try:
                return work(worker)
            except BaseException as failure:
                failures.append(failure)
                for other in self._workers.values():  # it may be waiting for this one
                    other.kill()
                return None

        results = list(self._pool.map(guarded, range(self.size)))
        if failures:
            raise failures[0]
        return [result for result in results if result is not None]

    def _close(self) -> None:
        for worker in self._workers.values():
            worker.__exit__()
        self._pool.shutdown()

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    """This thread, and what it starts meanwhile, on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
