"""An index in shards: what it loses, and what a second worker saves when it is built."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_data import K, VectorSet
from benchmarks.interleaved import interleave
from benchmarks.report import Report
from retrieval.index.recall import recall_of
from retrieval.index.setting import Effort, TreeSetting
from retrieval.index.sharded.build import build_sharded
from retrieval.index.sharded.index import ShardedIndex

_SEARCHED, _REORDERED = 0.03, 600  # of the leaves; vectors: in all shards together


def add_sharding(
    report: Report, data: VectorSet, setting: Mapping[str, Any], shards: int, rounds: int, folder: Path
) -> None:
    """`sharded_recall_loss`: recall@100 of one tree less that of `shards`, which scan and reorder as many vectors in
    all. `build_time_two_workers_vs_one`: of that index, each worker on one core."""
    tree = TreeSetting(**setting)
    queries, wanted = np.load(data.queries), data.neighbours()
    queries, others = queries[: len(wanted)], queries[len(wanted) :]
    build_sharded(data.folder, folder / "whole", tree, 1, 1, queries=others)
    searched = max(round(tree.leaves * _SEARCHED), 1)
    recalls = {}
    for name, count, effort in (
        ("whole", 1, Effort(searched, _REORDERED)),
        ("shards", shards, Effort(searched, max(_REORDERED // shards, K))),
    ):
        if name == "shards":
            _add_build_times(report, data, tree, others, shards, rounds, folder)
        index = ShardedIndex.load(folder / name)
        assert len(index.facts.shards) == count
        recalls[name] = recall_of(index.search(queries, K, effort)[0], wanted)
    report.metrics["whole_recall100"] = recalls["whole"]
    report.metrics["sharded_recall100"] = recalls["shards"]
    report.metrics["sharded_recall_loss"] = recalls["whole"] - recalls["shards"]
    times = [report.metrics[f"build_{workers}_s"] for workers in ("one_worker", "two_workers")]
    report.notes.append(
        f"{data.name} in {shards} shards: recall@100 {recalls['shards']:.4f}, {recalls['whole']:.4f} as one tree with "
        f"as many vectors scanned; built in {times[0]:.1f} s by one worker, {times[1]:.1f} s by two"
    )


def _add_build_times(
    report: Report,
    data: VectorSet,
    setting: TreeSetting,
    queries: np.ndarray,
    shards: int,
    rounds: int,
    folder: Path,
) -> None:
    """Leaves the index in `folder`/shards."""
    out = folder / "shards"

    def build(workers: int) -> float:
        shutil.rmtree(out, ignore_errors=True)
        with _on_cores(workers):
            start = time.perf_counter()
            build_sharded(data.folder, out, setting, shards, workers, queries=queries)
            return time.perf_counter() - start

    times = interleave({"one": lambda _: build(1), "two": lambda _: build(2)}, rounds, warmup=0)
    report.metrics["build_one_worker_s"] = times["one"].median
    report.metrics["build_two_workers_s"] = times["two"].median
    report.metrics["build_time_two_workers_vs_one"] = times["two"].median / times["one"].median


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """This thread, and processes that it starts meanwhile, on so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
