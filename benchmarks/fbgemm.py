"""FBGEMM's table as a contender: a step in the peers' process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import LEARNING_RATE
from benchmarks.peers import Peer
from benchmarks.problem import Problem
from embeddings.optimizers import EPSILON, INITIAL_ACCUMULATOR

PROGRAM = Path(__file__).with_name("fbgemm_peer.py")


class FbgemmStep:
    """Holds the only table of `peer`. folder: for the arrays it is given."""

    def __init__(self, peer: Peer, folder: Path, problem: Problem) -> None:
        self._peer, self._file = peer, folder / "vectors.npy"
        arrays = {"ids": np.stack(problem.ids), "offsets": problem.offsets(), "gradient": problem.gradient}
        question: dict[str, Any] = {
            "optimizer": problem.optimizer,
            "learning_rate": LEARNING_RATE,
            "epsilon": EPSILON,
            "initial_accumulator": INITIAL_ACCUMULATOR,
            "rows": problem.rows,
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
            question[name] = str(folder / f"{name}.npy")
        peer.ask(question)

    def step(self, batch: int) -> float:
        return float(self._peer.ask({"batch": batch})["seconds"])

    def vectors(self, batch: int) -> np.ndarray:
        self._peer.ask({"vectors": batch, "file": str(self._file)})
        return np.load(self._file, allow_pickle=False)
