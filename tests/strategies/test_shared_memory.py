"""Ranks that share memory: who may, what happens when one of them ends, and that nothing is left behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from foundation.errors import UserError
from strategies.shared_memory import refuse_on_gpu
from strategies.shared_memory.communicator import LIBRARY
from strategies.shared_memory.files import OwnFile, open_file

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("shared_memory_program.py")
PATIENCE = 240  # seconds


@pytest.fixture(scope="module")
def compiled():
    try:
        LIBRARY.path()
    except UserError as error:
        pytest.skip(error.message)


class Group:
    """Rank processes that go through groups, {name: (case, environment of each rank)}, one after another."""

    def __init__(self, folder, groups, environments=None):
        """environments: of the processes, when they start."""
        self.folder, self.groups = folder, groups
        for name in groups:
            (folder / name).mkdir(parents=True)
        [ranks] = {len(of_ranks) for _, of_ranks in groups.values()}
        clean = {name: value for name, value in os.environ.items() if name not in ("HEADRACE_EXCHANGE", "TF_CONFIG")}
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(PROGRAM), str(rank), str(folder), json.dumps(groups)],
                cwd=ROOT,
                env={**clean, "PYTHONPATH": str(ROOT), **(environments or [{}] * ranks)[rank]},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(ranks)
        ]

    def told(self, killed=()):
        """{name: (what each rank has to tell, None of the killed; what each printed)}."""
        try:
            printed = [process.communicate(timeout=PATIENCE)[0] for process in self.processes]
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        for rank, process in enumerate(self.processes):
            assert process.returncode == (-9 if rank in killed else 0), printed[rank]
        found = {}
        for name in self.groups:
            files = [self.folder / name / f"said-{rank}" for rank in range(len(self.processes))]
            said = [None if rank in killed else file.read_text() for rank, file in enumerate(files)]
            parts = [text.partition(f"END OF {name}\n") for text in printed]
            found[name], printed = (said, [part[0] for part in parts]), [part[-1] for part in parts]
        return found


def only(case, ranks=2):
    return {case: (case, [{}] * ranks)}


ALIKE = [{}, {}]
NO_MEMORY = [{}, {"LARGEST_FILE": str(1 << 20)}]
GROUPS = {
    "cut off": ("cut_off", ALIKE),
    "no agreement": ("no_agreement", ALIKE),
    "two threads": ("two_threads", ALIKE),
    "collectives": ("works", [{"HEADRACE_EXCHANGE": "collectives"}] * 2),
    "no memory": ("works", NO_MEMORY),
    "no memory, asked for": ("works", [{"HEADRACE_EXCHANGE": "shared_memory", **each} for each in NO_MEMORY]),
    "maybe": ("works", [{"HEADRACE_EXCHANGE": "maybe"}, {}]),
    "not the same": ("works", [{}, {"HEADRACE_EXCHANGE": "collectives"}]),
    "leaves": ("leaves", ALIKE),  # last: a rank ends
}


@pytest.fixture(scope="module")
def found(tmp_path_factory, compiled):
    """Of each of GROUPS: (what its two ranks have to tell, what they printed)."""
    return Group(tmp_path_factory.mktemp("groups"), GROUPS).told()


def test_two_groups_at_once_do_not_meet_and_nothing_is_left(tmp_path, compiled):
    before = set(os.listdir("/dev/shm"))
    groups = [Group(tmp_path / name, only("works")) for name in ("one", "other")]
    for group in groups:
        assert group.told()["works"][0] == ["SharedMemoryCommunicator"] * 2
    assert set(os.listdir("/dev/shm")) <= before


def test_a_rank_that_is_killed_is_named_to_all_who_wait(compiled, tmp_path):
    before = set(os.listdir("/dev/shm"))
    said, _ = Group(tmp_path, only("killed", ranks=3)).told(killed=(1,))["killed"]
    pid = (tmp_path / "killed" / "pid").read_text()
    for rank in (0, 2):
        in_step, eagerly = json.loads(said[rank])
        for each in (in_step, eagerly):
            assert each.startswith("InternalError: ")
            assert f"rank 1 (pid {pid}) is gone" in each
    assert set(os.listdir("/dev/shm")) <= before


def test_what_a_rank_sent_before_it_ended_is_received(found):
    assert found["leaves"][0] == ["999999", "999999"]


def test_a_rank_that_is_stopped_is_waited_for(tmp_path, compiled):
    group = Group(tmp_path, only("stopped"))
    slow = psutil.Process(group.processes[1].pid)
    deadline = time.monotonic() + PATIENCE
    while slow.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # longer than it takes to find a rank gone
    assert group.processes[0].poll() is None
    slow.resume()
    assert group.told()["stopped"][0] == ["SharedMemoryCommunicator"] * 2


def test_a_step_that_fails_does_not_wait_and_all_stay_in_step(found):
    [zero, one], _ = found["cut off"]
    said, early, totals = json.loads(zero)
    assert "rank 0 fails" in said
    assert early
    said_to_other, _, totals_of_other = json.loads(one)
    assert said_to_other == "none"
    assert totals == totals_of_other == [3.0, 6.0, 3.0, 6.0]


def test_ranks_that_do_not_call_the_same_are_told(found):
    [zero, one], _ = found["no agreement"]
    for rank, said in enumerate(map(json.loads, (zero, one))):
        other = f"rank {1 - rank}"
        assert f"{other} calls all_reduce of float [{3 - rank}] where rank {rank} calls all_reduce of float" in said[0]
        assert f"{other} calls all_gather of {'float' if rank == 0 else 'int32'} [2]" in said[1]
        assert f"broadcast of float [2] from rank {1 - rank}" in said[2]
    assert "sizes do not cover the rows: 2 of 3" in json.loads(zero)[3]
    assert "sizes have shape [3,3], not [2,2]" in json.loads(one)[3]
    assert "sizes are not below 0" in json.loads(zero)[4]
    assert "rank 0 failed in it: sizes are not below 0" in json.loads(one)[4]


def test_a_call_under_way_is_not_called_again(found):
    [zero, one], _ = found["two threads"]
    said, first = json.loads(zero)
    assert said.startswith("FailedPreconditionError: ")
    assert "eager.all_reduce: it is under way already" in said
    assert (first, one) == ([2.0], "2.0")


def test_the_ranks_take_collectives_when_told_to(found):
    said, printed = found["collectives"]
    assert said == ["FolderCommunicator"] * 2
    assert "exchange" not in "".join(printed)


def test_a_rank_that_cannot_keeps_all_from_it_and_one_says_why(compiled, tmp_path):
    (tmp_path / "bin").mkdir()
    without = {"PATH": str(tmp_path / "bin"), "HEADRACE_CACHE": str(tmp_path / "cache")}
    said, printed = Group(tmp_path / "group", only("works"), [{}, without]).told()["works"]
    assert said == ["FolderCommunicator"] * 2
    assert "rank 1: exchange: no C++ compiler (g++) on PATH. The ranks exchange through TensorFlow's" in printed[0]
    assert "exchange through" not in printed[1]


def test_memory_that_cannot_be_had_is_said_before_anything_starts(found):
    said, printed = found["no memory"]
    assert said == ["FolderCommunicator"] * 2
    assert "rank 1: shared memory: none to be had" in printed[0]


def test_shared_memory_that_is_asked_for_and_cannot_be_is_an_error_on_all(found):
    said, _ = found["no memory, asked for"]
    assert all("HEADRACE_EXCHANGE is 'shared_memory', but rank 1: shared memory: none" in each for each in said)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("maybe", "HEADRACE_EXCHANGE is 'maybe'.\nIt may be auto, collectives, shared_memory."),
        ("not the same", "is not the same on all ranks (rank 0: auto; rank 1: collectives)"),
    ],
)
def test_every_rank_refuses_what_they_cannot_all_do(found, group, message):
    said, _ = found[group]
    assert all(message in each for each in said)


def test_on_a_gpu_shared_memory_is_refused(monkeypatch):
    monkeypatch.setenv("HEADRACE_EXCHANGE", "shared_memory")
    with pytest.raises(UserError, match="the ranks' device is a GPU"):
        refuse_on_gpu()
    monkeypatch.setenv("HEADRACE_EXCHANGE", "auto")
    refuse_on_gpu()


def test_a_file_that_is_not_the_one_meant_is_refused():
    own = OwnFile()
    try:
        other = open_file(own.address())
        os.close(other)
        with pytest.raises(UserError, match="is another process's file"):
            open_file({**own.address(), "tag": "00" * 32})
        with pytest.raises(UserError, match="cannot be opened"):
            open_file({**own.address(), "fd": 99_999})
    finally:
        own.close()
