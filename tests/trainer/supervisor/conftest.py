"""Groups of small programs, supervised by a process of its own as `headrace run` is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# The supervisor: PROGRAM WORKERS OPTIONS, the options as JSON; "servers" of them make it a coordinator's group. Ctrl-C
# works in it however the tests themselves run.
SUPERVISOR = """
import json, signal, sys
from pathlib import Path
from trainer.main import exit_code_of
from trainer.supervisor.environment import parameter_server_tasks
from trainer.supervisor.supervise import supervise
from trainer.supervisor.watch import Timeouts

signal.signal(signal.SIGINT, signal.default_int_handler)
program, workers, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
timeouts = Timeouts(**{"between_beats": 0.1, **options.pop("timeouts", {})})
if "servers" in options:
    workers = parameter_server_tasks(workers, options.pop("servers"))
if "log_folder" in options:
    options["log_folder"] = Path(options["log_folder"])
sys.exit(exit_code_of(lambda: supervise([sys.executable, program], workers, timeouts=timeouts, **options)))
"""

# What every rank's program begins with. `born` tells the test of this rank's process and those it started.
PROLOGUE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from trainer.supervisor.member import join

rank = int(os.environ["HEADRACE_RANK"])
here = Path(__file__).parent


def born(*children):
    (here / f"rank-{rank}.new").write_text(" ".join(str(pid) for pid in (os.getpid(), *children)))
    (here / f"rank-{rank}.new").rename(here / f"rank-{rank}.pids")


def born_with_child():
    born(subprocess.Popen(["sleep", "600"]).pid)


def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.01)


"""


class Supervised:
    """Runs a program as a group of ranks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, program: str, workers: int = 2, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options):
        path = self.folder / "program.py"
        path.write_text(PROLOGUE + textwrap.dedent(program))
        words = [sys.executable, "-c", SUPERVISOR, str(path), str(workers), json.dumps(options)]
        return subprocess.Popen(
            words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=stdout, stderr=stderr, text=True
        )

    def run(self, program: str, workers: int = 2, **options) -> tuple[int, str, str]:
        """To its end: (exit code, stdout, stderr)."""
        process = self.start(program, workers, **options)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def pids(self, workers: int = 2) -> list[int]:
        """The ranks' and their children's process ids, once all are born."""
        files = [self.folder / f"rank-{rank}.pids" for rank in range(workers)]
        self.until(lambda: all(file.exists() for file in files))
        return [int(pid) for file in files for pid in file.read_text().split()]

    def all_gone(self, workers: int = 2) -> bool:
        return not any(map(_lives, self.pids(workers)))

    def until(self, happened) -> None:
        deadline = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def supervised(tmp_path) -> Supervised:
    return Supervised(tmp_path)
