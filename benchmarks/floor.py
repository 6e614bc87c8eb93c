"""The floor: a C++ program (floor.cc) that only moves a step's bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.machine import cores
from benchmarks.peers import PeerMissing
from benchmarks.problem import Problem

_SOURCE = Path(__file__).with_name("floor.cc")


def build(folder: Path) -> Path:
    """The compiled program.

    Raises:
      PeerMissing: there is no compiler, or it fails.
    """
    program = folder / "floor"
    if shutil.which("g++") is None:
        raise PeerMissing("the floor was not measured: there is no g++")
    command = ["g++", "-O3", "-march=native", "-pthread", str(_SOURCE), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerMissing(f"the floor was not measured: g++ ended with code {done.returncode}")
    return program


class FloorStep:
    """The program as a contender, for problems of one id a row."""

    def __init__(self, program: Path, problem: Problem) -> None:
        self._ids = [batch.tobytes() for batch in problem.ids]
        count = len(problem.ids[0])
        words = [str(program), str(problem.rows), str(problem.dim), str(count), str(cores())]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def step(self, batch: int) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(self._ids[batch])
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def vectors(self, batch: int) -> np.ndarray | None:
        return None

    def release(self) -> None:
        self._process.communicate()  # closes its stdin, which ends it
