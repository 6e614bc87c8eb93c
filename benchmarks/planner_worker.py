"""One of the workers that train a model of the `planner` suite, driven over JSON lines; TF_CONFIG names them all.

Questions: {} -> versions; {"workload": a `Workload` as a mapping, "widths": of its dense layers, "plan": a sharding
plan's document, "batches": how many} -> {}: model and batches are made; {"train": steps} -> {"seconds": of each step,
on the batches in turn, "worked": seconds of a core that this process took meanwhile}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

from embeddings.planner.tables import Dense, TableSpec, Workload
from embeddings.sharding import ShardingPlan
from strategies import Communicator
from strategies.multi_worker import MultiWorkerStrategy
from trainer.workload_step import batches_of, settle_process, timed, training_step


class Worker:
    """A model, its batches, and its step."""

    def __init__(self, question: dict[str, Any], communicator: Communicator) -> None:
        keys = question["workload"]
        tables = tuple(TableSpec(**{**table, "pooling_factors": ()}) for table in keys["tables"])
        workload = Workload(tables, keys["batch_size"], Dense(**keys["dense"]))
        plan = ShardingPlan.from_document(question["plan"])
        self._batches = batches_of(workload, communicator.size, communicator.rank, question["batches"])
        self._step = training_step(workload, question["widths"], communicator, plan)

    def train(self, steps: int) -> list[float]:
        """Seconds of each."""
        return timed(self._step, self._batches, steps)


def main() -> None:
    strategy: MultiWorkerStrategy | None = None
    worker: Worker | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "workload" in question:
            if strategy is None:
                settle_process(sorted(os.sched_getaffinity(0)))
                strategy = MultiWorkerStrategy()
            worker = None  # its tables are freed before others are made
            worker = Worker(question, strategy.communicator)
        elif "train" in question:
            assert worker
            before = time.process_time()
            answer = {"seconds": worker.train(question["train"]), "worked": time.process_time() - before}
        else:
            answer = {package: version(package) for package in ("tensorflow", "tf-keras")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
