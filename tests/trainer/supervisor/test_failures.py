"""A rank that fails ends the group; what is printed says which one failed first and why."""

import re
import signal

import pytest


def test_a_rank_killed(supervised):
    program = """
        born_with_child()
        with join({}) as membership:
            membership.progress(120)
            print("the last words")
            time.sleep(2 if rank == 1 else 600)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    logs = supervised.folder / "logs"
    code, _, err = supervised.run(program, log_folder=str(logs))
    assert code == 2
    assert err == (
        "error: rank 1 of 2 was killed by SIGKILL at step 120.\n"
        "Its last lines:\n"
        "  the last words\n"
        "Ended with it: rank 0 at step 120 (SIGTERM).\n"
        "The kernel sends SIGKILL when memory runs out: `dmesg` tells.\n"
        f"Its whole log: {logs}/rank-1.log\n"
    )
    assert supervised.all_gone(), "its child lived on"


def test_a_rank_stopped(supervised):
    """While the group is ended the stopped rank goes on, and these do not mind SIGTERM: so it is with TensorFlow."""
    program = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        born()
        with join({}) as membership:
            for step in range(10**6):
                membership.progress(step)
                time.sleep(0.1)
                if rank == 1 and step == 7:
                    time.sleep(1)
                    os.kill(os.getpid(), signal.SIGSTOP)
    """
    code, _, err = supervised.run(program, timeouts={"silent": 4.0, "grace": 1.0})
    assert code == 2
    assert "error: rank 1 of 2 was not heard of for 4 s (a signal stopped it) at step 7.\n" in err
    assert re.search(r"Ended with it: rank 0 at step \d+ \(SIGKILL\)", err)
    assert supervised.all_gone()


def test_a_rank_that_does_no_step_while_another_validates(supervised):
    program = """
        born()
        with join({}) as membership:
            membership.progress(3)
            if rank == 0:
                membership.phase("validation")
            time.sleep(600)
    """
    code, _, err = supervised.run(program, timeouts={"stuck": 2.0})
    assert code == 2
    assert "error: rank 1 of 2 did no step for 2 s at step 3.\n" in err
    assert "Ended with it: rank 0 in validation after step 3 (SIGTERM).\n" in err
    assert supervised.all_gone()


def test_a_rank_that_raises_is_first_though_another_ends_of_it_sooner(supervised):
    program = """
        born()
        try:
            with join({}) as membership:
                membership.progress(3)
                if rank == 1:
                    raise ValueError("row 7 is bad")
                wait_for("failed")
                raise ConnectionError("rank 1 is gone")
        except ValueError:
            (here / "failed").touch()
            other = Path("/proc", (here / "rank-0.pids").read_text(), "stat")
            while ") Z " not in other.read_text():  # until it has ended
                time.sleep(0.01)
            raise
    """
    code, _, err = supervised.run(program, timeouts={"grace": 60.0})
    assert code == 2
    assert "error: rank 1 of 2 ended with exit code 1 (ValueError: row 7 is bad) at step 3.\nIts last lines:\n" in err
    assert "\n  ValueError: row 7 is bad\nEnded with it: rank 0 at step 3 (exit code 1).\n" in err
    assert supervised.all_gone()


def test_a_users_error_is_printed_once_as_the_rank_says_it(supervised):
    program = """
        born()
        for other in range(3):
            wait_for(f"rank-{other}.pids")
        sys.stderr.write("a warning\\n")
        sys.stderr.write("error: job.yaml: 1 problem in the job:\\n  seed: unknown\\nMend the keys named above.\\n")
        sys.exit(2)
    """
    code, _, err = supervised.run(program, 3)
    assert code == 2
    rest = [line for line in err.splitlines() if not line.endswith("a warning")]
    assert rest == ["error: job.yaml: 1 problem in the job:", "  seed: unknown", "Mend the keys named above."]
    assert supervised.all_gone(3)


def test_what_begins_like_an_error_and_is_none_is_shown(supervised):
    code, _, err = supervised.run("sys.stderr.write('error: 0.25\\nand on\\n')", 1)
    assert code == 0
    assert err.splitlines() == ["[rank 0] error: 0.25", "[rank 0] and on"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_handed_on_and_ends_the_group(supervised, number, code):
    program = """
        def stop(number, frame):
            print(f"got {number}")
            sys.exit(128 + number)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        born()
        with join({}):
            time.sleep(600)
    """
    process = supervised.start(program)
    supervised.pids()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert sorted(out.splitlines()) == [f"[rank 0] got {number}", f"[rank 1] got {number}"]
    assert err == ("stopped; nothing half-written is left.\n" if number == signal.SIGINT else "")
    assert supervised.all_gone()


def test_a_second_ctrl_c_ends_ranks_that_do_not_listen(supervised):
    program = """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: (here / f"deaf-{rank}").touch())
        born()
        while True:
            time.sleep(600)
    """
    process = supervised.start(program, timeouts={"grace": 600.0})
    supervised.pids()
    process.send_signal(signal.SIGINT)
    supervised.until(lambda: all((supervised.folder / f"deaf-{rank}").exists() for rank in (0, 1)))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert supervised.all_gone()


@pytest.mark.parametrize("joins", [True, False])
def test_no_rank_outlives_a_killed_supervisor(supervised, joins):
    program = f"""
        if {joins}:
            join({{}})
        born_with_child()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
    """
    process = supervised.start(program)
    supervised.pids()
    process.kill()
    process.communicate(timeout=60)
    supervised.until(supervised.all_gone)


def test_a_rank_notices_by_itself_that_its_supervisor_is_gone(supervised):
    program = """
        if "inner" not in sys.argv:  # another session than the one the guard knows of
            sys.exit(subprocess.call([sys.executable, __file__, "inner"], start_new_session=True))
        join({})
        born()
        time.sleep(600)
    """
    process = supervised.start(program)
    supervised.pids()
    process.kill()
    process.communicate(timeout=60)
    supervised.until(supervised.all_gone)
