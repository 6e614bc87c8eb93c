"""Tasks done by processes of this machine, each on cores of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from foundation.errors import UserError
from retrieval.index.searcher import usable_cores
from retrieval.index.workers.program import Program, Task

_POLL = 0.02  # seconds
_TAIL = 2_000  # characters of a failed worker's words that are told
_ROOT = Path(__file__).parents[3]


def do_on_processes(program: Program, tasks: Sequence[Task], workers: int, done: Callable[[Task], None]) -> None:
    """Does the tasks, `workers` at once, this process's cores shared out between them. `done` is called after each.
    When this ends, by an error or Ctrl-C too, no process is left; if this process is killed, they end by themselves.

    Raises:
      UserError: what a worker says is wrong, or a worker that died.
    """
    waiting, running = deque(tasks), list[_Worker]()
    free = _cores_of_each(min(workers, max(len(tasks), 1)))
    try:
        while waiting or running:
            while waiting and free:
                running.append(_Worker(program, free.pop()))
                running[-1].give(waiting.popleft())
            for worker in list(running):
                finished = worker.finished()
                if finished is None:
                    continue
                done(finished)
                if waiting and not worker.is_used_up:
                    worker.give(waiting.popleft())
                else:
                    running.remove(worker)
                    worker.end()
                    free.append(worker.cores)
            time.sleep(_POLL)
    finally:
        for worker in running:
            worker.end()


class _Worker:
    def __init__(self, program: Program, cores: Sequence[int]) -> None:
        self.cores = cores
        self.task: Task | None = None
        self._program, self._given, self._answer = program, 0, b""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the worker has ended)
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", program.module],
            stdin=subprocess.PIPE,  # stays open: that it closes tells the worker that this process is gone
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": path},
            cwd=_ROOT,  # `-m` looks there first
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._write({"cores": list(cores)})

    @property
    def is_used_up(self) -> bool:
        """Whether it has done all that one process is to do."""
        return self._given == self._program.tasks_each

    def give(self, task: Task) -> None:
        self.task = task
        self._given += 1
        self._write(task)

    def finished(self) -> Task | None:
        """The task, once it is done.

        Raises:
          UserError: what the worker says is wrong with it, or that it died.
        """
        assert self.task is not None
        ended = self._process.poll() is not None  # asked first: all that it said is there to be read then
        assert self._process.stdout is not None
        self._answer += self._process.stdout.read() or b""
        if not self._answer.endswith(b"\n"):
            if ended:
                raise self._died()
            return None
        see_answer(json.loads(self._answer), self.task)
        task, self.task, self._answer = self.task, None, b""
        return task

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _write(self, line: Task) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once, which is seen when it is waited for
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()

    def _died(self) -> UserError:
        assert self.task is not None
        code = self._process.returncode
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        return UserError(
            f"the worker that made {self.task['makes']} {how}. {said[-_TAIL:]}".strip(),
            f"The same command goes on from what is done. {self._program.remedy}",
        )


def see_answer(answer: dict[str, str], task: Task) -> None:
    """Raises UserError: what a worker says is wrong, or what it made is not there."""
    if "message" in answer:
        raise UserError(answer["message"], answer.get("remedy", ""))
    if not Path(task["makes"]).exists():
        raise UserError(
            f"{task['makes']}: made, but not seen here.", "Give an output folder that every node of the cluster sees."
        )


def _cores_of_each(workers: int) -> list[Sequence[int]]:
    """Cores for each worker: in turn, so that no two of them share one while there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    if workers > usable_cores():
        return [[cores[worker % len(cores)]] for worker in range(workers)]
    return [cores[worker::workers] for worker in range(workers)]
