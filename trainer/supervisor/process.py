"""One rank's process."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class RankProcess:
    """A command in a session and process group of its own, so that what it starts can be ended with it.

    The process is not reaped before `reap`: until then neither its number nor its group's can become anybody else's,
    and a signal cannot go astray. ends: a descriptor that becomes readable when it ends.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], stdout: int, stderr: int, core: int | None
    ) -> None:
        with _on_core(core):
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.ends = os.pidfd_open(self.pid)

    def status(self) -> int:
        """The exit code, or minus the signal that killed it, of a process that has ended."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert found is not None  # only WNOHANG finds nothing
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def send(self, number: int) -> None:
        """Sends a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def is_stopped(self) -> bool:
        """Whether a signal or a debugger holds it."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] in "Tt"

    def reap(self) -> None:
        self._process.wait()
        os.close(self.ends)


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """What is started inside runs on one core from its first instruction: it inherits this thread's."""
    if core is None:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
