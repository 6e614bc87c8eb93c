"""What one rank writes: shown, kept whole in its log, and its last lines remembered."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from typing import IO

from foundation.files import disk_errors
from trainer.supervisor.channel import Channel
from trainer.supervisor.lines import Lines, plain
from trainer.supervisor.screen import STDERR, STDOUT, Screen

LAST_LINES = 20
SECONDS_HELD = 15.0
_ERROR = re.compile(r"^error: ", re.MULTILINE)
# What TensorFlow's C++ side notes while it starts and works, errors apart: for the log alone.
_CHATTER = re.compile(r"[IW]\d{4} [\d:. ]+ \w+\.cc:\d+\] |WARNING: All log messages before absl::InitializeLog")


class Output:
    """Reads a rank's channels; what cannot be written to its log is a UserError.

    On a terminal rank 0 has a terminal too; the other ranks, and all on a pipe, see pipes, where progress is a line now
    and then. A user's error, "error: ..." on stderr up to the end, is held back for a while: the same one may come from
    every rank, and the command prints it once.
    """

    def __init__(self, rank: int, screen: Screen, log: IO[str] | None) -> None:
        self.rank = rank
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._screen, self._log = screen, log
        self._held = ""
        self._held_since = 0.0
        self._held_of: Channel | None = None
        drawn = [stream for stream in (STDOUT, STDERR) if rank == 0 and screen.is_terminal(stream)]
        if len(drawn) == 2:
            channel = Channel(STDERR, drawn=True)
            self._streams = {STDOUT: channel, STDERR: channel}
        else:
            self._streams = {stream: Channel(stream, stream in drawn) for stream in (STDOUT, STDERR)}
        self.channels = list(dict.fromkeys(self._streams.values()))
        self._lines = {channel: Lines() for channel in self.channels}

    @property
    def inner(self) -> tuple[int, int]:
        """The rank's stdout and stderr."""
        return self._streams[STDOUT].inner, self._streams[STDERR].inner

    def close_inner(self) -> None:
        """To be called once the rank has its ends."""
        for channel in self.channels:
            os.close(channel.inner)

    @property
    def error(self) -> str:
        """The user's error that is held back, without "error: "; "" when there is none."""
        return "\n".join(map(plain, self._held.removeprefix("error: ").splitlines())).strip()

    def receive(self, channel: Channel, now: float) -> bool:
        """Takes what the rank wrote to a channel; returns whether more may come.

        Raises:
          BlockingIOError: it wrote nothing.
        """
        text = channel.read()
        lines = self._lines[channel].end() if text is None else self._lines[channel].receive(text)
        self.last_lines += lines
        for piece in [text or ""] if channel.drawn else [f"{line}\n" for line in lines if not _CHATTER.match(line)]:
            self._show_or_hold(piece, channel, now)
        self._keep(lines)
        return text is not None

    def _keep(self, lines: list[str]) -> None:
        log = self._log
        if log is not None and lines:
            self._log = None  # a full disk is told once; while the group then ends, what comes is only shown
            with disk_errors(log.name):
                log.writelines(f"{line}\n" for line in lines)
            self._log = log

    def _show_or_hold(self, piece: str, channel: Channel, now: float) -> None:
        if channel is self._held_of:
            self._held += piece
            return
        found = _ERROR.search(piece) if channel.stream == STDERR and self._held_of is None else None
        if found:
            self._held, self._held_since, self._held_of = piece[found.start() :], now, channel
            piece = piece[: found.start()]
        self._show(piece, channel)

    def _show(self, piece: str, channel: Channel) -> None:
        if channel.drawn:
            self._screen.as_it_is(piece, channel.stream)
        elif piece:
            for line in piece.removesuffix("\n").split("\n"):
                self._screen.line(self.rank, line, channel.stream)

    def release(self) -> None:
        """Shows what is held back."""
        if self._held_of is not None:
            self._show(self._held, self._held_of)
            self._held, self._held_of = "", None

    def release_if_old(self, now: float) -> None:
        """Shows what was held back for a while: the rank did not end of it."""
        if now - self._held_since > SECONDS_HELD:
            self.release()

    def close(self, now: float) -> None:
        """Takes what is left once the rank has ended."""
        for channel in self.channels:
            with contextlib.suppress(BlockingIOError):
                while self.receive(channel, now):
                    pass
            channel.close()
        if self._log is not None:
            self._log.close()
