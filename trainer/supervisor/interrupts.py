"""Ctrl-C and its like, noted instead of obeyed at once."""

from __future__ import annotations

import signal
from types import FrameType

from trainer.supervisor.environment import PREEMPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While open, these signals are only noted, in `received`; one that this process ignores is left so. Opened inside
    another it begins with what that has received. To be opened in the main thread."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
        owners = {getattr(handler, "__self__", None) for handler in self._before.values()}
        for around in owners:
            if isinstance(around, Interrupts):
                self.received += around.received
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def stop(self) -> None:
        """Raises what a command that was interrupted ends by: KeyboardInterrupt, or exit code 128 + the signal's."""
        if self.received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received[0])

    def stop_between_groups(self) -> None:
        """The same while no rank lives: what SIGTERM asks for is then there already."""
        if self.received[0] == signal.SIGTERM:
            raise SystemExit(PREEMPTED)
        self.stop()
