"""TensorFlow's own coordinator, workers and parameter servers under the supervisor, with real kills."""

import os
import re
import signal
import time

import pytest

PROGRAM = """
from strategies.parameter_server import Cluster, serve

membership = join({"job": "a"})
born()
if Cluster.here().task != "chief":
    membership.phase("serving")
    serve()
from foundation.tf import tf
from strategies import create_strategy

strategy = create_strategy("parameter_server")
with strategy.scope():
    counted = tf.Variable(0, dtype=tf.int64, trainable=False)


def step(k):
    counted.assign_add(1)
    return k


def numbers():
    k = 0
    while not (here / "enough").exists():
        if k % 50 == 0:
            (here / f"step-{k}").touch()
        membership.progress(k)
        yield (k,)
        k += 1


got = [int(k) for k in strategy.results(step, numbers())]
assert got == list(range(len(got)))
print(f"taken {len(got)} counted {int(counted)}")
"""


def _until(happened):
    deadline = time.monotonic() + 240  # TensorFlow begins in four processes at once
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _until_steps_go_on(supervised, more=100):
    last = max((int(path.name[5:]) for path in supervised.folder.glob("step-*")), default=-50)
    _until((supervised.folder / f"step-{last + more}").exists)


def _pid(supervised, rank):
    return int((supervised.folder / f"rank-{rank}.pids").read_text())


def test_a_worker_killed_and_started_again(supervised):
    process = supervised.start(PROGRAM, 2, servers=1)
    _until_steps_go_on(supervised)
    first = _pid(supervised, 1)
    os.kill(first, signal.SIGKILL)
    _until(lambda: _pid(supervised, 1) != first)
    _until_steps_go_on(supervised)
    (supervised.folder / "enough").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    taken, counted = map(int, re.search(r"taken (\d+) counted (\d+)", out).groups())
    assert taken <= counted <= taken + 1
    assert "rank 1 of 4 (worker 0) was killed by SIGKILL; it is started again (1 of 5 times)" in err
    assert supervised.all_gone(4)


@pytest.mark.long
def test_a_parameter_server_killed(supervised):
    process = supervised.start(PROGRAM, 2, servers=1)
    _until_steps_go_on(supervised)
    os.kill(_pid(supervised, 3), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "error: rank 3 of 4 (ps 0) was killed by SIGKILL" in err
    assert supervised.all_gone(4)
