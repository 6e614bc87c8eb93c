"""Clusters of real processes on this machine: a coordinator's program, workers and parameter servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.supervisor.ports import HeldPorts

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds
SERVE = "from strategies.parameter_server import serve; serve()"


class ServerGroup:
    """A context manager: no process outlives it. What each says is in FOLDER/TASK-INDEX.log."""

    def __init__(self, folder: Path, workers: int = 2, servers: int = 2) -> None:
        self.folder = folder
        self._ports = HeldPorts(1 + workers + servers)
        addresses = self._ports.addresses
        self.cluster = {"chief": addresses[:1], "worker": addresses[1 : 1 + workers], "ps": addresses[1 + workers :]}
        self.processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def start(self, program: Path, *arguments: str) -> None:
        for task in ("ps", "worker"):
            for index in range(len(self.cluster[task])):
                self.serve(task, index)
        self._start("chief", 0, [str(program), *arguments])

    def serve(self, task: str, index: int) -> None:
        """Starts a worker or server, perhaps once more."""
        self._start(task, index, ["-c", SERVE])

    def kill(self, task: str, index: int) -> None:
        process = self.processes[task, index]
        process.kill()
        process.wait()

    def wait(self) -> int:
        """Of the coordinator: its exit code."""
        return self.processes["chief", 0].wait(PATIENCE)

    def said(self, task: str = "chief", index: int = 0) -> str:
        return self._log(task, index).read_text()

    def until(self, sign: str) -> None:
        """Returns when the coordinator has said it."""
        deadline = time.monotonic() + PATIENCE
        while sign not in self.said():
            ended = self.processes["chief", 0].poll()
            assert ended is None, f"it ended with {ended}: {self.said()}"
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def _log(self, task: str, index: int) -> Path:
        return self.folder / f"{task}-{index}.log"

    def _start(self, task: str, index: int, words: Sequence[str]) -> None:
        config = json.dumps({"cluster": self.cluster, "task": {"type": task, "index": index}})
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TF_CONFIG": config}
        with self._log(task, index).open("ab") as log:
            self.processes[task, index] = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def __enter__(self) -> ServerGroup:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        self._ports.close()
