"""Headrace's step at each number of threads: TensorFlow takes the number once for the life of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.machine import cores

_CHILD = """
import json, sys
from benchmarks.contenders import HeadraceStep
from benchmarks.interleaved import interleave
from benchmarks.problem import draw
rows, shape, rounds = json.loads(sys.argv[1])
step = HeadraceStep(draw("zipf105", rows, tuple(shape), 4))
print(interleave({"headrace": lambda k: step.step(k % 4)}, rounds, 4)["headrace"].median)
"""


def times_by_threads(rows: int, shape: tuple[int, int, int], rounds: int) -> dict[float, float]:
    """Median seconds of a step by threads, 1 to this machine's cores, each in a process of its own."""
    found = {}
    for threads in range(1, cores() + 1):
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": str(threads)}
        words = [sys.executable, "-c", _CHILD, json.dumps([rows, shape, rounds])]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        found[float(threads)] = float(done.stdout.split()[-1])
    return found
