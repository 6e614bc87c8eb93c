"""Work that goes on beside this thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


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
