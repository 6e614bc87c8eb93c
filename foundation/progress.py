"""Progress of long work: a bar with a rate and an estimate on a terminal, a log line now and then on a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
console = Console(stderr=True)


def mute() -> None:
    """From now on nothing is shown: another process of the same job shows it."""
    console.quiet = True


class Meter:
    """Counts work done. `advance(n, note)` after each piece; `note` is shown beside the bar (a loss, a file name)."""

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._first = done
        self._start = time.monotonic()

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self._show(note)

    def _show(self, note: str) -> None:
        raise NotImplementedError  # one of the two below is made by `progress`


class _BarMeter(Meter):
    def __init__(self, bar: Progress, label: str, total: int | None, unit: str, done: int) -> None:
        super().__init__(label, total, unit, done)
        self._bar = bar
        self._task = bar.add_task(label, total=total, completed=done, note="")

    def _show(self, note: str) -> None:
        self._bar.update(self._task, completed=self.done, note=f"{self.rate:,.0f} {self.unit}/s {note}")


class _SilentMeter(Meter):
    def _show(self, note: str) -> None:
        pass


class _LineMeter(Meter):
    _last = 0.0

    def _show(self, note: str) -> None:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and self.done != self.total:
            return
        self._last = now
        of_total = f" of {self.total:,}" if self.total else ""
        left = f", {(self.total - self.done) / self.rate:.0f} s left" if self.total and self.rate > 0 else ""
        line = f"{self.label}: {self.done:,}{of_total} {self.unit}, {self.rate:,.0f}/s{left} {note}"
        print(line.rstrip(), file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int | None = None, unit: str = "steps", done: int = 0) -> Iterator[Meter]:
    """A meter for `total` units of work, of which `done` were done before (a resumed run)."""
    if console.quiet:
        yield _SilentMeter(label, total, unit, done)
        return
    if not console.is_terminal:
        yield _LineMeter(label, total, unit, done)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        yield _BarMeter(bar, label, total, unit, done)


_said: set[str] = set()


def say_once(line: str) -> None:
    """Says a line, if this process has not said it before."""
    if line not in _said:
        _said.add(line)
        say(line)


def say(text: str) -> None:
    """One line for the person watching, on stderr."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
