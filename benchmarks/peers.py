"""Peers live in an environment of their own, `.venv-peers` (made by `make peers`), and are driven over JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.errors import UserError

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"


def peers_command(program: Path) -> list[str]:
    """Runs a program with the peers' Python, isolated: neither this package's modules nor the caller's PYTHONPATH
    shadow what a peer imports."""
    return [str(PYTHON), "-I", "-W", "ignore", str(program)]


class PeerMissing(UserError):
    """Why a peer cannot be measured here."""


class Peer:
    """A child process that answers each JSON line on its stdin with one on its stdout. A context manager."""

    def __init__(self, command: Sequence[str], what: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts it. what: its name, for messages. environment: variables besides this process' own.

        Raises:
          PeerMissing: there is no such program, or it does not load.
        """
        self._what = what
        if not Path(command[0]).exists():
            folder = Path(command[0]).parents[1].name
            raise PeerMissing(f"{what} was not measured: there is no {folder} (`make peers` makes it)")
        self._process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.facts = self.ask({})

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question.

        Raises:
          PeerMissing: it ended without an answer.
        """
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, errors = self._process.communicate()
            last = errors.strip().splitlines()[-1:] or ["no reason given"]
            raise PeerMissing(
                f"{self._what} was not measured: it ended with code {self._process.returncode}: {last[0]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Ends it at once, whatever it is doing."""
        self._process.kill()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its stdin, which ends it
