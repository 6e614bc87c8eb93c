"""Groups of real processes, one a rank, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from strategies.mirrored import DEVICES
from trainer.supervisor.environment import tf_config
from trainer.supervisor.ports import HeldPorts

ROOT = Path(__file__).parents[3]
PATIENCE = 1500  # seconds, of the long tests on a busy machine


def run_group(program: Path, arguments: Sequence[str], ranks: int, devices: int | None = None) -> None:
    """Runs a program as `ranks` processes under TF_CONFIG, or alone without it; fails with what they said. devices:
    what HEADRACE_DEVICES says."""
    with closing(HeldPorts(ranks)) as ports:
        processes = [
            _started([sys.executable, str(program), *arguments], rank, ports.addresses, devices)
            for rank in range(ranks)
        ]
        try:
            said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    failed = [rank for rank, process in enumerate(processes) if process.returncode != 0]
    assert not failed, "\n".join(f"rank {rank}: {said[rank][-3000:]}" for rank in failed)


def _started(command: Sequence[str], rank: int, addresses: Sequence[str], devices: int | None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("TF_CONFIG", DEVICES):
        environment.pop(name, None)
    if devices is not None:
        environment[DEVICES] = str(devices)
    if len(addresses) > 1:
        environment["TF_CONFIG"] = tf_config(rank, addresses)
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
