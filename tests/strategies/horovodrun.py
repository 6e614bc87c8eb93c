"""Groups of real processes that horovodrun starts, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


def horovodrun(ranks: int, *command: object) -> None:
    """Runs the command as so many ranks on this machine, to its end; none is left behind."""
    runner = [Path(sys.executable).with_name("horovodrun"), "-np", str(ranks), "-H", f"localhost:{ranks}", "--gloo"]
    mark = f"{os.getpid()}-{ranks}"
    process = subprocess.Popen(
        [*runner, "--network-interfaces", "lo", sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HEADRACE_TEST_RUN": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its ranks
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"the ranks hang:\n{output}")
    finally:
        left = [found for found in psutil.process_iter() if marked(found, mark)]
        for found in left:
            found.kill()
    assert process.returncode == 0, output
    assert not left, "ranks are left behind"


def marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("HEADRACE_TEST_RUN") == mark
    except psutil.Error:
        return False
