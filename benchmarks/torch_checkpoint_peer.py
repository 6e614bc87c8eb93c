"""torch.distributed.checkpoint of one process, driven over JSON lines: questions as `checkpoint_worker` answers them.

Runs in the peers' environment, and imports nothing of headrace."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp


def _sync(folder: Path, forget: bool) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            if forget:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main() -> None:
    state: dict[str, torch.Tensor] = {}
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, object] = {}
        if "rows" in question:
            rows, dim = question["rows"], question["dim"]
            state = {"table": torch.zeros(rows, dim), "slot": torch.zeros(rows)}
            answer = {"bytes": 4 * rows * (dim + 1)}
        elif "save" in question:
            began = time.perf_counter()
            dcp.save(state, checkpoint_id=question["save"])
            _sync(Path(question["save"]), forget=False)
            seconds = time.perf_counter() - began
            answer = {"stall": seconds, "seconds": seconds}
        elif "restore" in question:
            _sync(Path(question["restore"]), forget=True)
            began = time.perf_counter()
            dcp.load(state, checkpoint_id=question["restore"])
            answer = {"seconds": time.perf_counter() - began}
        else:
            answer = {"torch": version("torch")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
