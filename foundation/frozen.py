"""This process's memory as it is at a moment, to be read while the process goes on."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import sys
import warnings
from contextlib import suppress
from types import TracebackType

import numpy as np

from foundation.errors import UserError

_REQUEST = struct.Struct("<QQQQQ")  # address, bytes of a row, rows there are, rows asked for, where the answer goes
_DONE = b"."
_PR_SET_PDEATHSIG = 1
_NOT_THE_CHILDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # its parent decides when it ends


class FrozenMemory:
    """A forked child that has the memory of this process as it was at its making, page by page copied only where this
    process writes meanwhile: what is read through it is of that moment, and nothing waits for it to be copied. A
    context manager; the child ends with it, with the thread that made it, and with this process.

    most_bytes: of rows asked for at once. kept: so many answers stay as they are while others are asked for.

    Raises:
      OSError: there is no fork here, or no room for another process.
    """

    def __init__(self, most_bytes: int, kept: int = 0) -> None:
        if not hasattr(os, "fork") or sys.platform == "darwin":  # whose system libraries do not live on in a child
            raise OSError("no fork here that a threaded process may use")
        self.most_bytes, self._answers_kept, self._asked = most_bytes, kept + 1, 0
        # the numbers of rows, of 8 bytes each; then the answers in turn
        self._shared = mmap.mmap(-1, most_bytes * (1 + self._answers_kept))
        asking, self._asks = os.pipe()
        self._answers, answering = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads; the child calls nothing that they hold
            held = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_THE_CHILDS)  # none may run a handler in the child
            try:
                self._child = os.fork()
                if not self._child:
                    _serve(self._shared, asking, answering)
            except OSError:
                for end in (asking, self._asks, self._answers, answering):
                    os.close(end)
                self._shared.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.close(asking)
        os.close(answering)

    def rows(self, address: int, count: int, row: np.dtype, shape: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
        """Rows [n, *shape] of `row`s, those of `numbers` [n] int64, of the `count` that lie at an address: the caller's
        until `kept` more calls were made.

        Raises:
          UserError: the child is gone.
        """
        row_bytes = row.itemsize * int(np.prod(shape))
        most = max(min(self.most_bytes // max(row_bytes, 1), self.most_bytes // 8), 1)
        if len(numbers) <= most:
            flat = self._answered(address, count, row_bytes, numbers)
        else:
            parts = (numbers[first : first + most] for first in range(0, len(numbers), most))
            flat = np.concatenate([self._answered(address, count, row_bytes, part).copy() for part in parts])
        return flat.view(row).reshape(len(numbers), *shape)

    def _answered(self, address: int, count: int, row_bytes: int, numbers: np.ndarray) -> np.ndarray:
        """[n * row_bytes] uint8."""
        size, place = len(numbers) * row_bytes, self.most_bytes * (1 + self._asked % self._answers_kept)
        self._asked += 1
        np.frombuffer(self._shared, np.int64, len(numbers))[:] = numbers
        self._ask(_REQUEST.pack(address, row_bytes, count, len(numbers), place))
        return np.frombuffer(self._shared, np.uint8, size, place)

    def _ask(self, request: bytes) -> None:
        with suppress(BrokenPipeError):
            os.write(self._asks, request)
        if os.read(self._answers, 1) != _DONE:
            raise UserError(
                f"process {self._child}, which held a snapshot of this one's memory, was ended from outside.",
                "Perhaps memory ran out: the system then ends processes. What was committed before is there.",
            )

    def close(self) -> None:
        """Ends the child."""
        if self._child < 0:
            return
        os.close(self._asks)
        os.close(self._answers)
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._child = -1

    def __enter__(self) -> FrozenMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(shared: mmap.mmap, asking: int, answering: int) -> None:
    """The child: reads memory until nobody asks. It calls nothing that could wait for a thread it does not have."""
    try:
        for number in _NOT_THE_CHILDS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_THE_CHILDS)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        lowest, highest = sorted((asking, answering))
        os.closerange(3, lowest)  # what the parent has open, sockets and locks, is the parent's
        os.closerange(lowest + 1, highest)
        os.closerange(highest + 1, 1 << 16)
        while request := os.read(asking, _REQUEST.size):
            address, row_bytes, count, asked, place = _REQUEST.unpack(request)
            there = (ctypes.c_char * (row_bytes * count)).from_address(address)
            rows = np.frombuffer(there, np.uint8).reshape(count, row_bytes)
            numbers = np.frombuffer(shared, np.int64, asked)
            out = np.frombuffer(shared, np.uint8, asked * row_bytes, place).reshape(asked, row_bytes)
            np.take(rows, numbers, axis=0, out=out, mode="clip")
            os.write(answering, _DONE)
    finally:
        os._exit(0)
