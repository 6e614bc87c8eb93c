"""A program whose tasks write the pid that did them, and do as they are told."""

import os
import signal
from pathlib import Path

from foundation.errors import UserError
from retrieval.index.workers.program import serve


def perform(task):
    print("what a library says")
    if task["do"] == "refuse":
        raise UserError("it cannot be", "let it be")
    if task["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task["do"] == "fail":
        raise ZeroDivisionError
    if task["do"] != "nothing":
        Path(task["makes"]).write_text(f"{os.getpid()} {sorted(os.sched_getaffinity(0))}")


if __name__ == "__main__":
    serve(perform)
