"""SIGTERM while a training runs: noted, and the second one obeyed at once unless a supervisor decides."""

import os
import signal
import subprocess
import sys

import pytest

from trainer.supervisor.environment import PREEMPTED, RENDEZVOUS

PROGRAM = """
import os, signal
from trainer.preemption import leave, sigterm_noted
with sigterm_noted() as asked:
    os.kill(os.getpid(), signal.SIGTERM)
    print("noted" if asked() else "lost", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
    leave("left.")
"""


@pytest.mark.parametrize(
    ("supervised", "said", "end"), [(False, "noted\n", -signal.SIGTERM), (True, "noted\nstill here\n", PREEMPTED)]
)
def test_the_second_sigterm(supervised, said, end):
    environment = {**os.environ, **({RENDEZVOUS: "127.0.0.1:1"} if supervised else {})}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.returncode) == (said, end), done.stderr
