"""Who builds shards: processes of this machine, each on cores of its own, or tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from foundation.errors import UserError
from retrieval.index.searcher import usable_cores

_POLL = 0.02  # seconds
_PATIENCE = 5.0  # seconds, of a cluster that is asked whether it is there
_TAIL = 2_000  # characters of a failed worker's words that are told
_ROOT = Path(__file__).parents[3]

Task = dict[str, Any]  # of plain JSON values, as `retrieval.index.sharded.worker.perform` takes it


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    task: Task
    cores: Sequence[int]
    output: IO[bytes]


def build_on_processes(tasks: Sequence[Task], workers: int, done: Callable[[Task], None]) -> None:
    """Does each task in a process of its own, `workers` at once, this process's cores shared out between them. `done`
    is called after each. When this ends, by an error or Ctrl-C too, no process is left; if this process is killed, they
    end by themselves.

    Raises:
      UserError: what a worker says is wrong, or a worker that died.
    """
    waiting, running = deque(tasks), list[_Running]()
    free = _cores_of_each(min(workers, max(len(tasks), 1)))
    try:
        while waiting or running:
            while waiting and free:
                running.append(_started(waiting.popleft(), free.pop()))
            for each in [one for one in running if one.process.poll() is not None]:
                running.remove(each)
                free.append(each.cores)
                _see_done(each)
                done(each.task)
            time.sleep(_POLL)
    finally:
        for each in running:
            each.process.kill()
            each.process.wait()
            each.output.close()


def build_on_ray(tasks: Sequence[Task], workers: int, address: str, done: Callable[[Task], None]) -> None:
    """Does each task on a Ray cluster, `workers` at once. The source and the output lie on a disk that every node sees.

    Raises:
      UserError: Ray is not installed, there is no such cluster, or a worker says what is wrong.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--ray {address}: Ray is not installed.",
            "Install it (pip install 'headrace[ray]'), or build without --ray.",
        ) from error
    _see_reachable(address)
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--ray {address}: no cluster answers there ({error}).", "Start one: ray start --head."
        ) from error
    from retrieval.index.sharded.worker import answered

    try:
        remote = ray.remote(answered)
        waiting, running = deque(tasks), dict[Any, Task]()
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.popleft()
                running[remote.remote(task)] = task
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                task = running.pop(reference)
                _see_answer(ray.get(reference), task)
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


def _cores_of_each(workers: int) -> list[Sequence[int]]:
    """Cores for each worker: in turn, so that no two of them share one while there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    if workers > usable_cores():
        return [[cores[worker % len(cores)]] for worker in range(workers)]
    return [cores[worker::workers] for worker in range(workers)]


def _started(task: Task, cores: Sequence[int]) -> _Running:
    output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the worker has ended)
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "retrieval.index.sharded.worker"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path},
        cwd=_ROOT,  # `-m` looks there first
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once, which is seen when it is waited for
        process.stdin.write(json.dumps({**task, "cores": list(cores)}).encode() + b"\n")
        process.stdin.flush()  # and stays open: that it closes tells the worker that this process is gone
    return _Running(process, task, cores, output)


def _see_done(each: _Running) -> None:
    if each.process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            each.process.stdin.close()
    each.output.seek(0)
    said = each.output.read().decode(errors="replace")
    each.output.close()
    try:
        answer = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        answer = None
    if not isinstance(answer, dict):
        code = each.process.returncode
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise UserError(
            f"the worker that built {each.task['folder']} {how}. {said[-_TAIL:]}".strip(),
            "The same command goes on from the shards that are done. If memory ran out: more shards, or fewer workers.",
        )
    _see_answer(answer, each.task)


def _see_answer(answer: dict[str, str], task: Task) -> None:
    if "message" in answer:
        raise UserError(answer["message"], answer.get("remedy", ""))
    if not Path(task["folder"]).exists():
        raise UserError(
            f"{task['folder']}: built, but not seen here.", "Give an output folder that every node of the cluster sees."
        )
