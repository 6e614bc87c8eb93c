"""Keeps the chatter of C++ libraries, which write to the process's own stderr, off the screen."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_lock = threading.Lock()
_blocks = 0  # under way, in any thread
_kept = -1  # stderr as it was before the first of them
_hidden: IO[bytes]
_failed = False


@contextmanager
def native_stderr_hidden() -> Iterator[None]:
    """Hides what is written to file descriptor 2 in the block; shows it after all when the block ends in an error.

    The descriptor is the process's: blocks of several threads may overlap, what any thread writes meanwhile is hidden,
    and it is stderr again when the last of them ends.
    """
    _enter()
    try:
        yield
    except BaseException:
        _leave(failed=True)
        raise
    _leave(failed=False)


def _enter() -> None:
    global _blocks, _kept, _hidden, _failed  # noqa: PLW0603 - as the descriptor is
    sys.stderr.flush()
    with _lock:
        if not _blocks:
            _kept, _hidden, _failed = os.dup(2), tempfile.TemporaryFile(), False  # noqa: SIM115 - `_leave` does
            os.dup2(_hidden.fileno(), 2)
        _blocks += 1


def _leave(failed: bool) -> None:
    global _blocks, _failed  # noqa: PLW0603
    with _lock:
        _blocks -= 1
        _failed |= failed
        if _blocks:
            return
        os.dup2(_kept, 2)
        os.close(_kept)
        with _hidden:
            if _failed:
                _hidden.seek(0)
                os.write(2, _hidden.read())
