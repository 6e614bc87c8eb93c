"""Ranks begin together, are shown and logged, and end together."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from foundation.errors import UserError
from trainer.supervisor.output import Output
from trainer.supervisor.screen import Screen


def test_each_rank_is_told_its_place(supervised):
    program = """
        import json
        with join({"job": "a"}) as membership:
            membership.progress(1)
            task = json.loads(os.environ["TF_CONFIG"])
            print(json.dumps([membership.rank, membership.world_size, task, sorted(os.sched_getaffinity(0))]))
            assert os.environ["HEADRACE_LOCAL_RANK"] == str(rank)
            assert os.environ["EXTRA"] == "x"
    """
    code, out, err = supervised.run(program, 3, pin_cores=True, environment={"EXTRA": "x"})
    assert (code, err) == (0, "")
    said = sorted((int(rank), json.loads(line)) for rank, line in re.findall(r"^\[rank (\d)\] (.*)$", out, re.M))
    cores = sorted(os.sched_getaffinity(0))
    for rank, (named, (own, world_size, task, affinity)) in enumerate(said):
        assert rank == named == own == task["task"]["index"]
        assert world_size == 3
        assert affinity == [cores[rank % len(cores)]]
    workers = [tuple(task["cluster"]["worker"]) for _, (_, _, task, _) in said]
    assert len(set(workers)) == 1
    assert len(set(workers[0])) == 3


def test_a_rank_that_ends_early_and_well_is_not_missed(supervised):
    program = """
        membership = join({})
        if rank == 0:
            membership.leave()
            time.sleep(1.5)  # without a beat
            (here / "late").touch()
        print("done")
    """
    code, out, err = supervised.run(program, timeouts={"silent": 1.0})
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["[rank 0] done", "[rank 1] done"]
    assert (supervised.folder / "late").exists()


def test_programs_that_never_join_run_too(supervised):
    code, out, _ = supervised.run("print('hello')", 2)
    assert code == 0
    assert sorted(out.splitlines()) == ["[rank 0] hello", "[rank 1] hello"]


def test_lines_are_shown_behind_their_rank_and_kept_whole_in_logs(supervised):
    program = r"""
        sys.stdout.write(f"one from {rank}\nbar 1%\rbar 2%\r\ntwo\n")
        sys.stderr.buffer.write("naïve \xff\n".encode("latin-1"))
        sys.stderr.write("no end of line")
    """
    logs = supervised.folder / "run" / "logs"
    for times in (1, 2):
        code, out, err = supervised.run(program, log_folder=str(logs))
        assert code == 0
        assert sorted(out.splitlines()) == sorted(
            f"[rank {rank}] {line}" for rank in (0, 1) for line in (f"one from {rank}", "bar 2%", "two")
        )
        assert sorted(err.splitlines()) == sorted(
            f"[rank {rank}] {line}" for rank in (0, 1) for line in ("na\ufffdve \ufffd", "no end of line")
        )
        log = (logs / "rank-1.log").read_text().splitlines()
        assert sum(line.startswith("--- ") and line.endswith("program.py") for line in log) == times
        assert log.count("one from 1") == log.count("bar 2%") == log.count("no end of line") == times


def test_on_a_terminal_rank_0_has_one_and_the_others_lines_are_coloured(supervised, monkeypatch):
    program = r"""
        if rank == 0:
            sys.stderr.write(f"{sys.stdout.isatty()} {sys.stderr.isatty()} {os.get_terminal_size(2).columns} bar 1%")
            wait_for("said")
            sys.stderr.write("\r\x1b[2K\x1b[?25lbar 2%")
        else:
            wait_for("drawn")
            print(sys.stdout.isatty(), sys.stderr.isatty())
    """
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 77, 0, 0))
    process = supervised.start(program, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while data := os.read(ours, 4096):
            seen += data
            for sign, name in ((b"bar 1%", "drawn"), (b"False False\r\n", "said")):
                if sign in seen:
                    (supervised.folder / name).touch()
    os.close(ours)
    assert process.wait(60) == 0
    assert seen.decode() == (
        "True True 77 bar 1%\r\x1b[2K\x1b[35m[rank 1] \x1b[0mFalse False\r\n\r\x1b[2K\x1b[?25lbar 2%\x1b[?25h\r\n"
    )


def test_standard_output_can_be_piped_into_what_ends_early(supervised):
    process = supervised.start("born()\nwhile True: print('more')", stderr=subprocess.DEVNULL)
    supervised.pids()
    process.stdout.readline()
    process.stdout.close()
    process.wait(60)
    assert supervised.all_gone()


def test_a_log_that_cannot_be_begun_is_named_and_no_rank_lives(supervised):
    (supervised.folder / "logs").mkdir()
    (supervised.folder / "logs" / "rank-1.log").symlink_to("/dev/full")
    code, _, err = supervised.run("time.sleep(600)", log_folder=str(supervised.folder / "logs"))
    assert code == 2
    assert f"error: {supervised.folder}/logs/rank-1.log: the disk is full." in err
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            assert str(supervised.folder).encode() not in path.read_bytes()


def test_a_log_that_cannot_be_gone_on_with_is_told_once(capfd):
    with open("/dev/full", "w", buffering=1) as log:
        output = Output(1, Screen(), log)
        channel = output.channels[0]
        os.write(channel.inner, b"one\n")
        with pytest.raises(UserError, match="/dev/full: the disk is full"):
            output.receive(channel, now=0.0)
        os.write(channel.inner, b"two\n")
        assert output.receive(channel, now=0.0)
        output.close_inner()
        output.close(now=0.0)
        with contextlib.suppress(OSError):
            log.close()
    assert capfd.readouterr().out == "[rank 1] one\n[rank 1] two\n"
