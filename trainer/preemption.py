"""SIGTERM: this process is asked to leave the machine, to go on later. A training checkpoints first; what is done in
one piece is left at once, and done again."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from foundation.progress import say
from trainer.supervisor.environment import PREEMPTED, is_supervised


def leave(why: str) -> NoReturn:
    """Ends this process with the exit code of one that goes on later.

    Raises:
      SystemExit: with PREEMPTED.
    """
    say(f"{why} The same command goes on from here (exit code {PREEMPTED}).")
    raise SystemExit(PREEMPTED)


@contextmanager
def sigterm_heeded() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit with PREEMPTED, wherever this process then is."""
    with _handled(lambda number, frame: leave("SIGTERM: ended.")):
        yield


@contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM is only noted: whoever asks the given function leaves at a time of its own; else it takes effect
    at the end. A second one ends the process as it ends any, unless a supervisor is there, which knows how long to
    wait."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted and not is_supervised():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        noted.append(number)

    with _handled(note):
        yield lambda: bool(noted)
    if noted:
        signal.raise_signal(signal.SIGTERM)


def heed_again() -> None:
    """Puts this process's own handler back in the place that a library took behind Python's back."""
    if _is_main_thread() and callable(handler := signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """An ignored signal is left so, and another thread than the main one has no say."""
    if not _is_main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        if not sys.is_finalizing():
            signal.signal(signal.SIGTERM, before)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
