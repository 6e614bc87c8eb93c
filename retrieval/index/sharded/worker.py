"""The process that builds one shard: `python -m retrieval.index.sharded.worker`, its task one line of JSON on stdin."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from retrieval.index.basis import Basis
from retrieval.index.setting import TreeSetting
from retrieval.index.sharded.shard import Range, build_shard
from retrieval.index.sources.source import open_source


def perform(task: dict[str, Any]) -> None:
    """Builds the shard that a task names: source, start, stop, setting, folder, seed, a basis' folder or None."""
    setting = None if task["setting"] is None else TreeSetting(**task["setting"])
    rows = Range(task["start"], task["stop"])
    basis = None if task["basis"] is None else Basis.load(Path(task["basis"]), "Build the index again.")
    build_shard(open_source(task["source"]), rows, setting, Path(task["folder"]), task["seed"], basis)


def answered(task: dict[str, Any]) -> dict[str, str]:
    """`perform`, its user's error as an answer: {} when it is done, else message and remedy."""
    try:
        perform(task)
    except UserError as error:
        return {"message": error.message, "remedy": error.remedy}
    return {}


def _end_with_parent() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


def main() -> None:
    task = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, task["cores"])  # before any library counts cores
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer = answered(task)
    print(json.dumps(answer), flush=True)
    os._exit(2 if answer else 0)  # the thread above still waits on stdin


if __name__ == "__main__":
    main()
