"""One table in training, saved and restored: headrace's checkpoints, or tf.train.Checkpoint's; driven over JSON lines.

    python -m benchmarks.checkpoint_worker headrace|tensorflow

Questions: {} -> versions; {"rows", "dim"} -> {"bytes": of the table and its slots}: it is made; {"save": folder} ->
{"stall": seconds until training may go on, "seconds": until it is committed and on the disk}; {"restore": folder} ->
{"seconds"}, the page cache being empty of it; {"train": n} -> {"step": median seconds of n steps}; and of a save with
training beside it, {"train_while_saving": folder} -> those of a save, and {"step", "steps": how many}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from embeddings.dense import DenseCheckpoint
from foundation.memory import keep_freed_memory
from foundation.tf import tf
from trainer.checkpoint import CheckpointStore
from trainer.world import alone

_IDS = 65_536  # of a training step


def drop_from_cache(folder: Path) -> None:
    """Leaves nothing of a folder's files in the page cache, all of them being on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


class Contender(Protocol):
    bytes: int

    def begin(self, folder: Path) -> None:
        """Begins to save; training may go on when it returns."""

    def is_done(self) -> bool: ...
    def end(self) -> None:
        """Returns when all is on the disk."""

    def restore(self, folder: Path) -> None: ...
    def step(self) -> None: ...


class Headrace:
    def __init__(self, rows: int, dim: int) -> None:
        keep_freed_memory()
        table = TableConfig("table", rows, dim, RowWiseAdagrad(0.01))
        self._layer = ShardedEmbedding({"ids": FeatureConfig(table)})
        self.bytes = 4 * rows * (dim + 1)
        self._store: CheckpointStore | None = None
        self._stored: dict[Path, Any] = {}
        self._ids = tf.constant(np.random.default_rng(0).integers(0, rows, _IDS))
        self._step = tf.function(self._train)

    def _train(self) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self._layer({"ids": self._ids}, training=True)["ids"])
        return tape.gradient(loss, self._layer.trainable_variables)

    def begin(self, folder: Path) -> None:
        self._store = CheckpointStore(folder, DenseCheckpoint(dense=tf.Variable(1.0)), self._layer, alone())
        self._stored[folder] = self._store.save(1, {}, None)

    def is_done(self) -> bool:
        assert self._store
        return bool(self._store.all())

    def end(self) -> None:
        assert self._store
        self._store.wait()

    def restore(self, folder: Path) -> None:
        assert self._store
        self._store.restore(self._stored[folder])

    def step(self) -> None:
        self._step()


class TensorFlow:
    """The same table as a variable, and its accumulators."""

    def __init__(self, rows: int, dim: int) -> None:
        self._table = tf.Variable(tf.zeros([rows, dim]), trainable=False)
        self._slot = tf.Variable(tf.zeros([rows]), trainable=False)
        self._checkpoint = tf.train.Checkpoint(table=self._table, slot=self._slot)
        self.bytes = 4 * rows * (dim + 1)

    def begin(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._checkpoint.write(str(folder / "model"))
        for file in folder.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def is_done(self) -> bool:
        return True

    def end(self) -> None:
        pass

    def restore(self, folder: Path) -> None:
        self._checkpoint.read(str(folder / "model")).assert_consumed()

    def step(self) -> None:
        raise NotImplementedError("only its files are measured")


def _answer(contender: Contender, question: dict[str, Any]) -> dict[str, Any]:
    if "train" in question:
        return {"step": float(np.median([_seconds(contender.step) for _ in range(question["train"])]))}
    folder = Path(question.get("save") or question.get("restore") or question["train_while_saving"])
    if "restore" in question:
        drop_from_cache(folder)
        return {"seconds": _seconds(lambda: contender.restore(folder))}
    began = time.perf_counter()
    contender.begin(folder)
    stall, steps = time.perf_counter() - began, []
    while "train_while_saving" in question and not contender.is_done():
        steps.append(_seconds(contender.step))
    contender.end()
    took = {"stall": stall, "seconds": time.perf_counter() - began}
    return took if not steps else {**took, "step": float(np.median(steps)), "steps": len(steps)}


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    kinds: dict[str, Any] = {"headrace": Headrace, "tensorflow": TensorFlow}
    contender: Contender | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if not question:
            answer: dict[str, Any] = {package: version(package) for package in ("tensorflow", "tensorstore")}
        elif "rows" in question:
            contender = kinds[sys.argv[1]](question["rows"], question["dim"])
            assert contender
            answer = {"bytes": contender.bytes}
        else:
            assert contender
            answer = _answer(contender, question)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
