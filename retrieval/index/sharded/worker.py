"""The process that builds one shard: `python -m retrieval.index.sharded.worker`."""

from __future__ import annotations

from pathlib import Path

from retrieval.index.setting import TreeSetting
from retrieval.index.sharded.shard import Range, build_shard
from retrieval.index.sources.source import open_source
from retrieval.index.workers.program import Task, serve


def perform(task: Task) -> None:
    """Builds the shard that a task names: source, start, stop, setting, trained (a folder, or None), makes (its
    folder)."""
    setting = None if task["setting"] is None else TreeSetting(**task["setting"])
    rows = Range(task["start"], task["stop"])
    trained = None if task["trained"] is None else Path(task["trained"])
    build_shard(open_source(task["source"]), rows, setting, Path(task["makes"]), trained)


if __name__ == "__main__":
    serve(perform)
