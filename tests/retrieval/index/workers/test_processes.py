"""Tasks are done by as many processes as asked for, told by name when they fail, and none is left."""

import os
from pathlib import Path

import pytest

from foundation.errors import UserError
from retrieval.index.workers.processes import do_on_processes
from retrieval.index.workers.program import Program

MODULE = "tests.retrieval.index.workers.small_program"


def _tasks(folder, *what):
    return [{"do": do, "makes": str(folder / f"{number}")} for number, do in enumerate(what)]


def _processes_of(tasks):
    return [Path(task["makes"]).read_text().split()[0] for task in tasks]


@pytest.mark.parametrize(("tasks_each", "processes"), [(None, 1), (1, 2)])
def test_a_process_does_as_many_as_it_may(tmp_path, tasks_each, processes):
    tasks, done = _tasks(tmp_path, "it", "it"), []
    do_on_processes(Program(MODULE, tasks_each, ""), tasks, 1, done.append)
    assert done == tasks
    assert len(set(_processes_of(tasks))) == processes
    assert not [pid for pid in _processes_of(tasks) if Path(f"/proc/{pid}").exists()]


def test_several_share_the_cores_and_the_tasks(tmp_path):
    tasks, done = _tasks(tmp_path, *["it"] * 6), []
    do_on_processes(Program(MODULE, None, ""), tasks, 2, done.append)
    assert sorted(task["makes"] for task in done) == sorted(task["makes"] for task in tasks)
    cores = {tuple(Path(task["makes"]).read_text().split(" ", 1)) for task in tasks}
    assert 1 <= len(cores) <= 2
    if len(os.sched_getaffinity(0)) > 1:
        assert len({of for _, of in cores}) == len(cores)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("refuse", "it cannot be"),
        ("die", "0 was ended by signal 9"),
        ("fail", "(?s)0 ended with exit code 1.*ZeroDivisionError"),
        ("nothing", "0: made, but not seen here"),
    ],
)
def test_a_failure_is_told_and_the_others_are_ended(tmp_path, do, message):
    tasks, done = _tasks(tmp_path, do, "it"), []
    with pytest.raises(UserError, match=message) as caught:
        do_on_processes(Program(MODULE, 1, "Take less."), tasks, 1, done.append)
    assert done == []
    if do in ("die", "fail"):
        assert caught.value.remedy == "The same command goes on from what is done. Take less."


def test_nothing_to_do_is_done_at_once():
    do_on_processes(Program("there.is.none", None, ""), [], 2, print)
