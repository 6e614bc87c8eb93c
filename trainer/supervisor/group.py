"""The ranks of one command, from their start to their end."""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from foundation.errors import UserError
from foundation.files import disk_errors
from trainer.supervisor.account import GroupFailed
from trainer.supervisor.channel import Channel
from trainer.supervisor.environment import PREEMPTED, Task, rank_environment
from trainer.supervisor.guard import Guard
from trainer.supervisor.output import Output
from trainer.supervisor.ports import HeldPorts
from trainer.supervisor.process import RankProcess
from trainer.supervisor.rendezvous import Rendezvous
from trainer.supervisor.screen import STDERR, Screen
from trainer.supervisor.watch import PatientClock, Standing, Timeouts

SECONDS_A_ROUND = 0.2
MOST_REPLACED = 5  # times that a rank is started again


class Group:
    """Starts ranks, attends to them in one loop of one thread, and ends them. A context manager: no rank outlives it.

    standings, outputs, processes: each by rank.
    """

    def __init__(self, tasks: Sequence[Task], timeouts: Timeouts, log_folder: Path | None) -> None:
        self.clock = PatientClock()
        self.tasks = list(tasks)
        self.standings = [self._standing(rank) for rank in range(len(tasks))]
        self.outputs: list[Output] = []
        self.processes: list[RankProcess] = []
        self._timeouts, self._log_folder = timeouts, log_folder
        self._screen = Screen()
        self._selector = selectors.DefaultSelector()
        self._rendezvous = Rendezvous(self._selector, self.standings, self.clock, timeouts)
        self._ports = HeldPorts(len(tasks))
        self._guard = Guard()
        self._replaced = [0] * len(tasks)
        self._gone: list[RankProcess] = []  # in whose places others were started

    def start(self, command: Sequence[str], environment: Mapping[str, str], pin_cores: bool) -> None:
        """Starts every rank.

        Raises:
          UserError: the folder of logs cannot be written; GroupFailed: a process could not be started.
        """
        self._started = (command, environment, pin_cores)
        for rank in range(len(self.tasks)):
            try:
                process, output = self._start(rank)
            except OSError as error:  # no memory, no process numbers left
                short = f"rank {rank} of {len(self.tasks)} could not be started ({error.strerror})"
                raise GroupFailed(f"{short}.", "", rank, short) from error
            self.processes.append(process)
            self.outputs.append(output)

    def _start(self, rank: int) -> tuple[RankProcess, Output]:
        command, environment, pin_cores = self._started
        cores = sorted(os.sched_getaffinity(0))
        output = Output(rank, self._screen, self._open_log(rank, command))
        own = rank_environment(
            rank, self._ports.addresses, self._rendezvous.address, self._rendezvous.token, environment, self.tasks
        )
        core = cores[rank % len(cores)] if pin_cores else None
        process = RankProcess(command, own, *output.inner, core)
        self._guard.watch_over(process.pid)
        output.close_inner()
        self._selector.register(process.ends, selectors.EVENT_READ, partial(self._end_of, rank))
        for channel in output.channels:
            self._selector.register(channel.fd, selectors.EVENT_READ, partial(self._output_of, rank, channel))
        return process, output

    def _standing(self, rank: int) -> Standing:
        task = self.tasks[rank]
        several = len({each.job for each in self.tasks}) > 1
        return Standing(rank, f" ({task.job} {task.index})" if several else "", began=self.clock.now)

    def may_replace(self, rank: int) -> bool:
        """Whether a rank that fails is to be started again."""
        return self.tasks[rank].replaceable and self._replaced[rank] < MOST_REPLACED

    def replace(self, rank: int, why: str) -> None:
        """Starts a rank that failed again, at the same address; what lives of it is killed before.

        Raises:
          UserError: its log cannot be written.
        """
        self.processes[rank].send(signal.SIGKILL)
        while self.standings[rank].ended is None:
            self.attend()
        self.outputs[rank].release()
        self._replaced[rank] += 1
        self._screen.line(rank, f"{why}; it is started again ({self._replaced[rank]} of {MOST_REPLACED} times)", STDERR)
        self._gone.append(self.processes[rank])  # not reaped yet: the guard knows its number
        self._rendezvous.expect_again(rank)
        self.standings[rank] = self._standing(rank)
        self.processes[rank], self.outputs[rank] = self._start(rank)

    def _open_log(self, rank: int, command: Sequence[str]) -> IO[str] | None:
        if self._log_folder is None:
            return None
        path = self._log_folder / f"rank-{rank}.log"
        with disk_errors(path):
            self._log_folder.mkdir(parents=True, exist_ok=True)
            log = path.open("a", buffering=1, encoding="utf-8")
            # a resumed run goes on below
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n")
        return log

    @property
    def refusal(self) -> UserError | None:
        """Why the ranks may not start together, once all have joined and disagree."""
        return self._rendezvous.refusal

    def has_ended(self) -> bool:
        """Whether no rank lives."""
        return not self._living()

    def is_done(self) -> bool:
        """Whether every rank that has an end of its own has come to it."""
        return not any(not self.tasks[rank].serves for rank in self._living())

    def _living(self) -> list[int]:
        return [rank for rank in range(len(self.processes)) if self.standings[rank].ended is None]

    def stopped(self) -> set[int]:
        """The ranks that live and that a signal holds."""
        return {rank for rank in self._living() if self.processes[rank].is_stopped()}

    def attend(self) -> None:
        """One round: what the ranks wrote, what they said, who ended."""
        for key, _ in self._selector.select(SECONDS_A_ROUND):
            if self._selector.get_map().get(key.fd) is key:  # not closed by an earlier one of this round
                key.data()
        self.clock.advance()
        for output in self.outputs:
            output.release_if_old(self.clock.now)

    def _output_of(self, rank: int, channel: Channel) -> None:
        with suppress(BlockingIOError):
            if not self.outputs[rank].receive(channel, self.clock.now):
                self._selector.unregister(channel.fd)

    def _end_of(self, rank: int) -> None:
        process, output, standing = self.processes[rank], self.outputs[rank], self.standings[rank]
        standing.ended, standing.status = self.clock.now, process.status()
        process.send(signal.SIGKILL)  # what it started and left behind
        for channel in output.channels:
            with suppress(KeyError):
                self._selector.unregister(channel.fd)
        self._selector.unregister(process.ends)
        output.close(self.clock.now)

    def is_done_well(self) -> bool:
        """Whether it is, and none failed."""
        own = [one for one in self.standings if not self.tasks[one.rank].serves]
        return all(one.ended is not None and one.status == 0 for one in own)

    def has_left(self) -> bool:
        """Whether a rank has ended because it was asked to leave: then it is for all to."""
        return any(one.status == PREEMPTED for one in self.standings)

    def ask_to_leave(self, hurry: Callable[[], bool]) -> None:
        """Sends SIGTERM to the ranks that have an end of their own, and returns when they have come to it: they may
        checkpoint first, which takes all of them. `hurry()`, or one that failed meanwhile, cuts short what time they
        have for it."""
        for rank in self._living():
            if not self.tasks[rank].serves:
                self.processes[rank].send(signal.SIGTERM)
                self.processes[rank].send(signal.SIGCONT)
        until = self.clock.now + self._timeouts.leave
        while not self.is_done() and self.clock.now < until and not hurry():
            self.attend()
            failed = [one.ended for one in self.standings if one.ended is not None and one.status not in (0, PREEMPTED)]
            if failed:
                until = min(until, min(failed) + self._timeouts.grace)

    def end(self, signals: Sequence[int], hurry: Callable[[], bool] = lambda: False) -> None:
        """Ends the ranks that live by each signal in turn, SIGKILL last: each has the grace period to work, which
        `hurry()` cuts short."""
        for number in (*signals, signal.SIGKILL):
            for rank in self._living():
                self.processes[rank].send(number)
                self.processes[rank].send(signal.SIGCONT)  # a stopped process takes no other signal than SIGKILL
            until = self.clock.now + self._timeouts.grace
            while not self.has_ended() and self.clock.now < until and (number == signal.SIGKILL or not hurry()):
                self.attend()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Leaves no process behind, and shows what was held back, unless the error that is raised says it."""
        self.end([signal.SIGTERM])
        self._guard.dismiss()
        living = self._living()  # a process that the system itself does not let go
        for rank, process in enumerate(self.processes):
            if rank not in living:
                process.reap()
        for process in self._gone:
            process.reap()
        for output in self.outputs:
            if not (isinstance(error, UserError) and str(error).startswith(output.error)):
                output.release()
        self._screen.settle()
        self._rendezvous.close()
        self._ports.close()
        self._selector.close()
