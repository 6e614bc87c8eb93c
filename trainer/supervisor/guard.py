"""What ends the ranks when the supervisor cannot: it was killed with SIGKILL."""

from __future__ import annotations

import subprocess

# Reads the groups' numbers until the other end of the pipe is closed. A stopped or deadlocked rank, and what a rank has
# itself started, end too: the reason not to leave this to the ranks, nor to PR_SET_PDEATHSIG, which ends a rank alone.
_SCRIPT = 'groups=; while read -r group; do groups="$groups -$group"; done; kill -s KILL -- $groups'


class Guard:
    """A process that waits for this one's end, and then kills the process groups that it was told of."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # no Ctrl-C reaches it
        )

    def watch_over(self, group: int) -> None:
        """Adds a process group."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{group}\n".encode())
        self._process.stdin.flush()

    def dismiss(self) -> None:
        """Ends the guard, its groups untouched. To be called before the groups' leaders are reaped, while their numbers
        cannot be anybody else's."""
        self._process.kill()
        self._process.communicate()
