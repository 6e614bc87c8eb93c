"""Groups of real processes, one a rank, on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
PATIENCE = 400  # seconds


def run_group(program: Path, arguments: Sequence[str], ranks: int) -> None:
    """Runs a program as `ranks` processes under TF_CONFIG, or alone without it; fails with what they said."""
    addresses = _free_addresses(ranks)
    processes = []
    for rank in range(ranks):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("TF_CONFIG", None)
        if ranks > 1:
            cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
            environment["TF_CONFIG"] = json.dumps(cluster)
        command = [sys.executable, str(program), *arguments]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    failed = [rank for rank, process in enumerate(processes) if process.returncode != 0]
    assert not failed, "\n".join(f"rank {rank}: {said[rank][-3000:]}" for rank in failed)


def _free_addresses(count: int) -> list[str]:
    """Loopback addresses that were free a moment ago: all are taken at once, so that no two are one."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()
