"""The process that does tasks: `python -m MODULE`, each task a line of JSON on stdin, each answer one on stdout."""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foundation.errors import UserError

Task = dict[str, Any]  # of plain JSON values; "makes" is the path of what is there when it is done


@dataclass(frozen=True)
class Program:
    """module: has `perform(task)`, and calls `serve(perform)` when it is run. tasks_each: how many tasks one of our
    processes does before a new one, with memory of its own, takes its place; None: any number. remedy: of a worker that
    died."""

    module: str
    tasks_each: int | None
    remedy: str


def answered(perform: Callable[[Task], None], task: Task) -> dict[str, str]:
    """Does a task; its user's error as an answer: {} when it is done, else message and remedy."""
    try:
        perform(task)
    except UserError as error:
        return {"message": error.message, "remedy": error.remedy}
    return {}


def answered_by(module: str, task: Task) -> dict[str, str]:
    """The same by the module's name, for a process of a cluster."""
    return answered(importlib.import_module(module).perform, task)


def serve(perform: Callable[[Task], None]) -> None:
    """Does tasks until stdin ends, which ends this process whatever it is doing: whoever wrote to it is gone. The first
    line tells the cores that are this process's."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    os.sched_setaffinity(0, json.loads(sys.stdin.readline())["cores"])  # before TensorFlow and ScaNN count them
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()
    while True:
        print(json.dumps(answered(perform, tasks.get())), file=answers, flush=True)


def _read(tasks: queue.SimpleQueue[Task]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)
