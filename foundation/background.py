"""Work that goes on beside this thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_AT_ONCE = 4


class Background:
    """A call in a thread of its own, which does not keep the process from ending. Begins at once."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            self._failure = failure

    def join(self, seconds: float | None = None) -> None:
        """Returns when it has ended, well or not, or after so long."""
        self._thread.join(seconds)

    def wait(self) -> None:
        """Returns when the call has returned; raises what it raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def do_several_at_once(work: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """`work` of each item, in threads: for work that mostly waits or that Python takes no part in. Raises what one of
    them raises."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting: deque[Future[None]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _AT_ONCE:
                waiting.popleft().result()
        for each in waiting:
            each.result()
