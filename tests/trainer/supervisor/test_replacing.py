"""A coordinator with workers and parameter servers: it ends the group, a worker's end does not, a server's does."""

import json

import pytest

from trainer.supervisor.environment import parameter_server_tasks, tf_config
from trainer.supervisor.group import MOST_REPLACED
from trainer.supervisor.watch import Standing, Timeouts, first_failure

# Ranks 0: the coordinator; 1, 2: workers; 3: a parameter server. `alive` counts a rank's starts.
SERVERS = """
import json
task = json.loads(os.environ["TF_CONFIG"])["task"]


def alive():
    count = len(list(here.glob(f"alive-{rank}-*"))) + 1
    (here / f"alive-{rank}-{count}").touch()
    return count


"""


def _run(supervised, program, **options):
    return supervised.run(SERVERS + program, 2, servers=1, **options)


def test_each_is_told_its_task_and_the_coordinators_end_is_the_groups(supervised):
    program = """
membership = join({"job": "a"})
born_with_child()
print(task["type"], task["index"], membership.world_size)
if rank == 0:
    for other in range(1, 4):
        wait_for(f"rank-{other}.pids")
    time.sleep(0.5)  # in which what they said is read
else:
    membership.phase("serving")
    time.sleep(600)
"""
    code, out, err = _run(supervised, program)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [
        "[rank 0] chief 0 4",
        "[rank 1] worker 0 4",
        "[rank 2] worker 1 4",
        "[rank 3] ps 0 4",
    ]
    assert supervised.all_gone(4)


@pytest.mark.parametrize("joins", [True, False])
def test_a_killed_worker_is_started_again_at_its_address(supervised, joins):
    program = f"""
joins = {joins}
cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
membership = join({{"job": "a"}}) if joins else None
count = alive()
(here / f"cluster-{{rank}}-{{count}}").write_text(json.dumps(cluster))
born_with_child()
if rank == 1 and count < 3:
    print("the last words", count)
    os.kill(os.getpid(), signal.SIGKILL)
if rank == 0:
    wait_for("alive-1-3")
    wait_for("rank-3.pids")
    time.sleep(0.5)  # in which the others would be told to end, were they
    assert len(list(here.glob("alive-2-*"))) == len(list(here.glob("alive-3-*"))) == 1
    sys.exit(0)
if joins:
    membership.phase("serving")
time.sleep(600)
"""
    logs = supervised.folder / "logs"
    code, out, err = _run(supervised, program, log_folder=str(logs))
    assert code == 0, err
    assert [line for line in out.splitlines() if "last words" in line] == [
        "[rank 1] the last words 1",
        "[rank 1] the last words 2",
    ]
    said = [line for line in err.splitlines() if "started again" in line]
    assert said == [
        f"[rank 1] rank 1 of 4 (worker 0) was killed by SIGKILL; it is started again ({n} of {MOST_REPLACED} times)"
        for n in (1, 2)
    ]
    clusters = {path.read_text() for path in supervised.folder.glob("cluster-*")}
    assert len(clusters) == 1, "another address"
    assert (logs / "rank-1.log").read_text().count("the last words") == 2
    assert supervised.all_gone(4), "a child lived on"


def test_a_stopped_worker_is_killed_and_started_again(supervised):
    program = """
membership = join({})
count = alive()
born_with_child()
membership.phase("serving")
if rank == 2 and count == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
if rank == 0:
    wait_for("alive-2-2")
    sys.exit(0)
time.sleep(600)
"""
    code, _, err = _run(supervised, program, timeouts={"silent": 2.0})
    assert code == 0, err
    assert "rank 2 of 4 (worker 1) was not heard of for 2 s (a signal stopped it); it is started again" in err
    assert supervised.all_gone(4)


def test_a_killed_parameter_server_ends_the_group(supervised):
    program = """
born_with_child()
membership = join({})
membership.phase("serving")
time.sleep(1 if rank == 3 else 600)
os.kill(os.getpid(), signal.SIGKILL)
"""
    code, _, err = _run(supervised, program)
    assert code == 2
    assert "error: rank 3 of 4 (ps 0) was killed by SIGKILL" in err
    assert "rank 1 (worker 0)" in err
    assert supervised.all_gone(4)


def test_a_worker_that_always_fails_ends_the_group(supervised):
    program = """
count = alive()
born()
if rank == 1:
    raise ValueError(f"for the {count}. time")
time.sleep(600)
"""
    code, _, err = _run(supervised, program)
    assert code == 2
    assert err.count("it is started again") == MOST_REPLACED
    assert "error: rank 1 of 4 (worker 0) ended with exit code 1" in err
    assert f"ValueError: for the {MOST_REPLACED + 1}. time" in err
    assert supervised.all_gone(4)


def test_a_workers_user_error_is_told_at_once(supervised):
    program = """
born()
for other in range(4):
    wait_for(f"rank-{other}.pids")
if rank == 1:
    sys.stderr.write("error: parameter_server: worker 0 cannot serve at its address.\\n")
    sys.exit(2)
time.sleep(600)
"""
    code, _, err = _run(supervised, program)
    assert code == 2
    assert err.splitlines() == ["error: parameter_server: worker 0 cannot serve at its address."]
    assert supervised.all_gone(4)


def test_the_coordinators_failure_is_the_groups(supervised):
    program = """
born_with_child()
with join({}) as membership:
    if rank == 0:
        raise ValueError("row 7 is bad")
    membership.phase("serving")
    time.sleep(600)
"""
    code, _, err = _run(supervised, program)
    assert code == 2
    assert "error: rank 0 of 4 (chief 0) ended with exit code 1 (ValueError: row 7 is bad)" in err
    assert supervised.all_gone(4)


def test_a_worker_that_is_back_may_take_its_time_to_join():
    timeouts = Timeouts(join=300.0)
    standings = [Standing(0, joined=5.0, heard=1999.0, phase="serving"), Standing(1, began=1990.0)]
    assert first_failure(standings, 2000.0, timeouts) is None
    standings[0].heard = 2299.0
    failure = first_failure(standings, 2300.0, timeouts)
    assert failure is not None
    assert failure.rank == 1


def test_tasks_in_tf_config():
    tasks = parameter_server_tasks(workers=2, servers=1)
    config = json.loads(tf_config(3, ["a:1", "b:2", "c:3", "d:4"], tasks))
    assert config == {
        "cluster": {"chief": ["a:1"], "worker": ["b:2", "c:3"], "ps": ["d:4"]},
        "task": {"type": "ps", "index": 0},
    }
    assert [task.replaceable for task in tasks] == [False, True, True, False]
