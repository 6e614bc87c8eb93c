"""One command as several ranks on this machine."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from foundation.errors import UserError
from trainer.supervisor.account import account, in_short
from trainer.supervisor.environment import PREEMPTED, USER_ERROR, Task, equal_tasks
from trainer.supervisor.group import Group
from trainer.supervisor.interrupts import Interrupts
from trainer.supervisor.watch import Failure, How, Timeouts, first_failure

NOTHING = 0  # the signal that is none


def supervise(
    command: Sequence[str],
    workers: int | Sequence[Task],
    *,
    log_folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    pin_cores: bool = False,
    timeouts: Timeouts | None = None,
) -> None:
    """Runs `workers` processes of one command to their end; returns when all have ended with exit code 0. When one
    fails, or is not heard of for too long, all are ended. To be called in the main thread.

    Given tasks in place of a number (environment.py) it returns when those that do not serve have ended so; one that is
    replaceable is started again, a few times, unless what it failed of is a user's error.

    log_folder: gets rank-0.log and so on; logs of runs before are added to. environment: variables for every rank,
    beside this process's and a rank's own (environment.py). pin_cores: each rank on one core, in turn.

    Raises:
      GroupFailed: a rank failed: which one first, how, and what became of the others.
      UserError: a user's error, as the rank said it; or the ranks disagree on what they run.
      KeyboardInterrupt: Ctrl-C, which is handed on to the ranks; a second one kills them.
      SystemExit: likewise, for SIGHUP (code 129). For SIGTERM, to this process or to a rank: with PREEMPTED if the
        ranks checkpointed and left, otherwise 143.
    """
    timeouts = timeouts or Timeouts()
    tasks = equal_tasks(workers) if isinstance(workers, int) else workers
    with Interrupts() as interrupts, Group(tasks, timeouts, log_folder) as group:
        group.start(command, environment or {}, pin_cores)
        while not group.is_done_well():
            group.attend()
            if signal.SIGTERM in interrupts.received[:1]:
                group.ask_to_leave(hurry=lambda: len(interrupts.received) > 1)
                if group.is_done_well():
                    return
            if group.has_left():
                group.end([NOTHING], hurry=group.is_done)  # the others are about to
                raise SystemExit(PREEMPTED)
            if interrupts.received:
                signals = dict.fromkeys((interrupts.received[0], signal.SIGTERM))
                group.end(list(signals), hurry=lambda: len(interrupts.received) > 1)
                interrupts.stop()
            if group.refusal:
                raise group.refusal
            failure = first_failure(group.standings, group.clock.now, timeouts)
            if failure and _is_users(failure, group) is None and group.may_replace(failure.rank):
                stopped = failure.rank in group.stopped()
                group.replace(failure.rank, in_short(failure, group.standings, stopped))
            elif failure:
                raise _error(failure, group, log_folder)


def _is_users(failure: Failure, group: Group) -> UserError | None:
    """The user's error that a rank ended with and said."""
    output, status = group.outputs[failure.rank], group.standings[failure.rank].status
    if failure.how is How.ENDED and status == USER_ERROR and output.error:
        return UserError(output.error)
    return None


def _error(failure: Failure, group: Group, log_folder: Path | None) -> UserError:
    """Ends the group; returns what it failed of."""
    users = _is_users(failure, group)
    if users is not None:
        return users
    output = group.outputs[failure.rank]
    stopped, then = group.stopped(), [replace(standing) for standing in group.standings]
    group.end([signal.SIGTERM])  # while it lasts a rank may go on: one that was stopped, or that TensorFlow made deaf
    standings = [replace(one, status=now.status) for one, now in zip(then, group.standings, strict=True)]
    error = account(failure, standings, stopped, output.last_lines, log_folder)
    if failure.how is How.ENDED and standings[failure.rank].status == USER_ERROR:  # said in other words than "error: "
        return UserError(error.message, error.remedy)
    return error
