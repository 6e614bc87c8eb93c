"""The supervisor's own stdout and stderr, shared by the ranks."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
STDOUT, STDERR = 1, 2
_ERASE_LINE, _SHOW_CURSOR = "\r\x1b[2K", "\x1b[?25h"


class Screen:
    """Prints whole lines of any rank behind its name, coloured on a terminal, and rank 0's terminal output as it is,
    progress bar and all. The bar's line is erased before another rank's line; rank 0 draws it again below."""

    def __init__(self) -> None:
        self._consoles = {STDOUT: Console(), STDERR: Console(stderr=True)}
        self._files = {STDOUT: sys.stdout, STDERR: sys.stderr}
        self._terminal: int | None = None  # the stream that rank 0 has drawn on
        self._half_a_line = False  # it has not drawn to the end of a line

    def is_terminal(self, stream: int) -> bool:
        return os.isatty(stream)

    def line(self, rank: int, line: str, stream: int) -> None:
        """Prints `[rank N] line`."""
        if self._half_a_line:
            self._draw(_ERASE_LINE)
            self._half_a_line = False
        name = (f"[rank {rank}] ", COLOURS[rank % len(COLOURS)])
        self._consoles[stream].print(Text.assemble(name, line), soft_wrap=True, highlight=False)

    def as_it_is(self, text: str, stream: int) -> None:
        """Writes what rank 0 wrote to its terminal."""
        if text:
            self._terminal, self._half_a_line = stream, not text.endswith("\n")
            self._draw(text)

    def settle(self) -> None:
        """Leaves the terminal fit for others, whatever rank 0 was drawing when it ended."""
        self._draw(_SHOW_CURSOR + ("\n" if self._half_a_line else ""))
        self._half_a_line = False

    def _draw(self, text: str) -> None:
        if self._terminal is not None:
            self._files[self._terminal].write(text)
            self._files[self._terminal].flush()
