"""The groups of workers that the `scaling` suite compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import available_memory
from benchmarks.peers import peers_command
from benchmarks.scaling_problem import WORKERS, Case, Sizes
from benchmarks.worker_groups import WorkerGroup
from foundation.errors import UserError
from trainer.supervisor.environment import tf_config
from trainer.supervisor.ports import HeldPorts

# Workers. Those apart train each a model of its own: what the machine itself leaves of two workers' speed.
GROUPS = {"headrace_one": 1, "headrace_two": WORKERS, "headrace_apart": WORKERS, "torch_one": 1, "torch_two": WORKERS}
_TORCHREC = Path(__file__).with_name("torchrec_peer.py")
_FLOAT = 4  # bytes
_RESERVE = 4 << 30  # bytes


class Contender:
    """A group of workers in training on one model. losses: of each step, of the global batch."""

    def __init__(self, group: WorkerGroup, facts: Sequence[dict[str, Any]], sizes: Sizes, mean: bool) -> None:
        """mean: workers say their share's mean loss, not the batch's."""
        self.group, self.facts = group, facts[0]
        self._sizes, self._mean = sizes, mean

    def train(self, number: int, share: bool, ahead: bool) -> tuple[float, np.ndarray]:
        """Seconds a step of turn `number`, from when the last worker began to when the last one ended; and losses."""
        first = number * self._sizes.steps
        batches = [step % self._sizes.batches for step in range(first, first + self._sizes.steps)]
        answers = self.group.ask({"train": batches, "share": share, "ahead": ahead})
        seconds = max(answer["ended"] for answer in answers) - max(answer["began"] for answer in answers)
        losses = np.array([answer["losses"] for answer in answers])
        return seconds / len(batches), losses.mean(0) if self._mean else losses[0]

    def seconds(self, number: int, share: bool, ahead: bool) -> float:
        """See `train`."""
        return self.train(number, share, ahead)[0]

    def vectors(self, folder: Path) -> np.ndarray:
        """[WORKERS * n, features, dim] float32: what some ids of batch 0 look up now."""
        files = [folder / f"vectors-{worker}.npy" for worker in range(self.group.size)]
        self.group.ask({"vectors": self._sizes.checked}, [{"file": str(file)} for file in files])
        return np.concatenate([np.load(file, allow_pickle=False) for file in files])

    def calls(self, batch: int) -> list[list[tuple[str, str, int]]]:
        """Of each worker, the exchanges of a step: kind, dtype, bytes that leave the worker."""
        return [[tuple(call) for call in answer["calls"]] for answer in self.group.ask({"count": batch})]


_COMMAND = [sys.executable, "-W", "ignore", "-m", "benchmarks.scaling_worker"]


@contextmanager
def headrace(workers: int) -> Iterator[WorkerGroup]:
    """headrace's workers, in a process each."""
    with closing(HeldPorts(workers)) as ports:
        environments = [{"TF_CONFIG": tf_config(rank, ports.addresses)} for rank in range(workers)]
        with WorkerGroup(_COMMAND, "headrace", environments if workers > 1 else [{}]) as group:
            yield group


def started(stack: ExitStack, name: str, case: Case, sizes: Sizes, folder: Path) -> Contender:
    """Starts the workers, and makes their model.

    Raises:
      UserError: there is not the memory, or a worker does not load.
    """
    ranks = GROUPS[name]
    _need_memory(name, case.tables, sizes.dim, copies=ranks if name == "headrace_apart" else 1)
    if name.startswith("headrace"):
        apart = WorkerGroup(_COMMAND, "headrace, apart", [{}] * ranks) if name == "headrace_apart" else None
        group = stack.enter_context(apart or headrace(ranks))
        return Contender(group, group.ask(case.question), sizes, mean=False)
    group = stack.enter_context(WorkerGroup(peers_command(_TORCHREC), "TorchRec", [{}] * ranks))
    shared = {**case.question, "ranks": ranks, "rendezvous": str(folder / f"{case.model}-{name}")}
    return Contender(group, group.ask(shared, [{"rank": rank} for rank in range(ranks)]), sizes, mean=True)


def _need_memory(name: str, tables: Sequence[int], dim: int, copies: int) -> None:
    """Raises UserError unless there is memory for a group's tables, a copy of the largest while it is made, and the
    machine's other work."""
    wanted, there = copies * (sum(tables) + max(tables)) * dim * _FLOAT + _RESERVE, available_memory()
    if wanted > there:
        raise UserError(
            f"{name} was left out: its tables and a reserve want {wanted / 1e9:.0f} GB of memory, {there / 1e9:.0f} GB "
            "are free"
        )
