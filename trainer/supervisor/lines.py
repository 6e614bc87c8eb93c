"""Lines out of what a process writes, piece by piece."""

from __future__ import annotations

import re

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 1 << 16  # characters without an end of line before they are taken for a line


class Lines:
    """Puts lines together. Of what was written over by carriage returns, a line keeps the last; codes that steer a
    terminal are left out."""

    def __init__(self) -> None:
        self._open = ""

    def receive(self, text: str) -> list[str]:
        """The lines that `text` completes."""
        *whole, rest = (self._open + text).split("\n")
        self._open = rest[rest.rstrip("\r").rfind("\r") + 1 :]
        if len(self._open) > _LONGEST:
            whole, self._open = [*whole, self._open], ""
        return [plain(line) for line in whole]

    def end(self) -> list[str]:
        """What stands in the last line, if it was not ended."""
        rest, self._open = self._open, ""
        return [plain(rest)] if rest else []


def plain(line: str) -> str:
    """A line as it looks once it is written."""
    return _TERMINAL_CODES.sub("", line).rstrip("\r").rpartition("\r")[2]
