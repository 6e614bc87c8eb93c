"""What a rank's stdout and stderr are: pipes, or for a rank that may draw, a terminal of its own."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import termios
import tty

_AT_ONCE = 1 << 16  # bytes


class Channel:
    """The supervisor's end of one stream, or of both when they are one terminal.

    stream: which of the supervisor's own it is shown on (1 or 2). drawn: it is a terminal. inner: the rank's end, to be
    closed here once the rank has it.
    """

    def __init__(self, stream: int, drawn: bool = False) -> None:
        self.stream, self.drawn = stream, drawn
        if drawn:
            self.fd, self.inner = pty.openpty()
            tty.setraw(self.inner)
            self._take_size()
        else:
            self.fd, self.inner = os.pipe()
        os.set_blocking(self.fd, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self) -> str | None:
        """What the rank has written since; None when it can write no more.

        Raises:
          BlockingIOError: nothing yet.
        """
        if self.drawn:
            self._take_size()
        try:
            data = os.read(self.fd, _AT_ONCE)
        except BlockingIOError:
            raise
        except OSError:  # how a terminal ends whose other side is closed
            data = b""
        return self._decoder.decode(data) if data else None

    def _take_size(self) -> None:
        """Makes the rank's terminal as wide as this process's."""
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self.stream, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.fd, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        os.close(self.fd)
