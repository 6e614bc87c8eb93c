"""What a rank is told by its environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RANK = "HEADRACE_RANK"
WORLD_SIZE = "HEADRACE_WORLD_SIZE"
LOCAL_RANK = "HEADRACE_LOCAL_RANK"
RENDEZVOUS = "HEADRACE_RENDEZVOUS"
TOKEN = "HEADRACE_TOKEN"
USER_ERROR = 2  # the exit code of a command that failed for a user's reason, and said it
PREEMPTED = 75  # of one that SIGTERM asked to leave: the same command goes on (EX_TEMPFAIL, "try again later")


def is_supervised() -> bool:
    """Whether a supervisor started this process: it holds for all of them what but one may hold."""
    return bool(os.environ.get(RENDEZVOUS))


@dataclass(frozen=True)
class Task:
    """What a rank is among the others: its job and number in TF_CONFIG. serves: it has no end of its own, and is ended
    when those that have one are done. replaceable: should it fail, it is started again, and the others go on. slot: its
    place on this machine, such as a device; None: the same as its rank."""

    job: str = "worker"
    index: int = 0
    serves: bool = False
    replaceable: bool = False
    slot: int | None = None


def equal_tasks(workers: int) -> list[Task]:
    """Ranks that begin and end together."""
    return tasks_on(range(workers))


def tasks_on(slots: Sequence[int]) -> list[Task]:
    """The same, rank by rank on these slots."""
    return [Task(index=rank, slot=slot) for rank, slot in enumerate(slots)]


def parameter_server_tasks(workers: int, servers: int) -> list[Task]:
    """Rank 0 coordinates; then come the workers, then the parameter servers, whose variables die with them."""
    return [
        Task("chief"),
        *(Task("worker", index, serves=True, replaceable=True) for index in range(workers)),
        *(Task("ps", index, serves=True) for index in range(servers)),
    ]


def tf_config(rank: int, addresses: Sequence[str], tasks: Sequence[Task] | None = None) -> str:
    """TF_CONFIG of a rank: every rank's "HOST:PORT", and which is its own. tasks: of every rank; None: equal ones."""
    tasks = tasks or equal_tasks(len(addresses))
    cluster: dict[str, list[str]] = {}
    for task, address in zip(tasks, addresses, strict=True):
        cluster.setdefault(task.job, []).append(address)
    return json.dumps({"cluster": cluster, "task": {"type": tasks[rank].job, "index": tasks[rank].index}})


def rank_environment(
    rank: int,
    addresses: Sequence[str],
    rendezvous: str,
    token: str,
    extra: Mapping[str, str],
    tasks: Sequence[Task] | None = None,
) -> dict[str, str]:
    """This process's environment with what is `rank`'s own: its place among the ranks, the supervisor's "HOST:PORT" and
    token, and TF_CONFIG with every rank's address."""
    slot = tasks[rank].slot if tasks else None
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",  # what a rank wrote before it was killed is its last words
        **extra,
        RANK: str(rank),
        WORLD_SIZE: str(len(addresses)),
        LOCAL_RANK: str(rank if slot is None else slot),  # one machine
        RENDEZVOUS: rendezvous,
        TOKEN: token,
        "TF_CONFIG": tf_config(rank, addresses, tasks),
    }
