"""Tasks done by a Ray cluster."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from foundation.errors import UserError
from retrieval.index.workers.processes import see_answer
from retrieval.index.workers.program import Program, Task, answered_by

_PATIENCE = 5.0  # seconds, of a cluster that is asked whether it is there


def do_on_ray(
    program: Program, tasks: Sequence[Task], workers: int, address: str, done: Callable[[Task], None]
) -> None:
    """Does the tasks on a Ray cluster, `workers` at once; `done` is called after each. What they read and make lies on
    a disk that every node sees.

    Raises:
      UserError: Ray is not installed, there is no such cluster, or a worker says what is wrong.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--ray {address}: Ray is not installed.",
            "Install it (pip install 'headrace[ray]'), or leave out --ray.",
        ) from error
    _see_reachable(address)
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--ray {address}: no cluster answers there ({error}).", "Start one: ray start --head."
        ) from error
    try:
        remote = ray.remote(answered_by)
        waiting, running = deque(tasks), dict[Any, Task]()
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.popleft()
                running[remote.remote(program.module, task)] = task
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                task = running.pop(reference)
                see_answer(ray.get(reference), task)
                done(task)
    finally:
        ray.shutdown()


def _see_reachable(address: str) -> None:
    """That something listens at HOST:PORT (Ray itself would wait for minutes)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit() or not host:
        return  # "auto", "local": found, or not, on this machine
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"--ray {address}: no cluster answers there ({error.strerror or error}).", "Start one: ray start --head."
        ) from error
