"""A coordinator, workers and parameter servers: every step is taken though workers are killed; a server's end is
told."""

import json
import re
import time
from pathlib import Path

import pytest

from foundation.errors import UserError
from strategies import create_strategy, servers_of
from strategies.parameter_server import Cluster, ParameterServerStrategy, serve
from tests.strategies.server_groups import PATIENCE, ServerGroup

PROGRAM = Path(__file__).parent / "parameter_server_program.py"
CLUSTER = {"chief": ["a:1"], "worker": ["a:2", "b:2"], "ps": ["a:3"]}


def _steps_after(group, count=200):
    """Returns when so many more steps have been scheduled than by now."""
    last = max(map(int, re.findall(r"at step (\d+)\.", group.said())), default=-100)
    group.until(f"at step {last + count}.")


def _until_used(group, task, index, times):
    """Returns when the coordinator has connected so often to a worker, and steps have gone on."""
    deadline = time.monotonic() + PATIENCE
    while group.said(task, index).count("Creating sync eager service context") < times:
        assert time.monotonic() < deadline, group.said(task, index)
        time.sleep(0.05)
    _steps_after(group, 100)


@pytest.mark.long
def test_every_step_is_taken_though_workers_are_killed(tmp_path):
    """The first comes back and is used: after the second's end there is no other."""
    with ServerGroup(tmp_path) as group:
        group.start(PROGRAM, str(tmp_path))
        _steps_after(group)
        group.kill("worker", 0)
        _steps_after(group)
        group.serve("worker", 0)
        _until_used(group, "worker", 0, times=2)
        group.kill("worker", 1)
        _steps_after(group)
        (tmp_path / "enough").touch()
        assert group.wait() == 0, group.said()[-3000:]
        said = group.said()
    given, counted = map(int, re.search(r"given (\d+) counted (\d+)", said).groups())
    # the step that a killed worker had begun is taken again; it was counted, or not yet
    assert given <= counted <= given + 2
    assert "topology 2 2" in said


@pytest.mark.parametrize("server", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_killed_parameter_server_ends_the_job(tmp_path, server):
    with ServerGroup(tmp_path) as group:
        group.start(PROGRAM, str(tmp_path))
        _steps_after(group, 100)
        group.kill("ps", server)
        assert group.wait() == 2
        assert "error: parameter_server: a parameter server is gone, with the variables it held" in group.said()


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        json.dumps({"cluster": CLUSTER}),
        json.dumps({"cluster": {**CLUSTER, "ps": []}, "task": {"type": "chief", "index": 0}}),
        json.dumps({"cluster": {"worker": ["a:2"]}, "task": {"type": "worker", "index": 0}}),
        json.dumps({"cluster": {**CLUSTER, "worker": "a:2"}, "task": {"type": "chief", "index": 0}}),
        json.dumps({"cluster": {**CLUSTER, "chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}),
        json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}),
        json.dumps({"cluster": CLUSTER, "task": {"type": "evaluator", "index": 0}}),
        json.dumps({"cluster": CLUSTER, "task": {"type": "ps", "index": "0"}}),
    ],
)
@pytest.mark.parametrize("begin", [lambda: create_strategy("parameter_server"), serve], ids=["chief", "serve"])
def test_a_cluster_that_is_not_described_is_refused(monkeypatch, config, begin):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match="TF_CONFIG is not what TensorFlow wants") as error:
        begin()
    assert '"chief": ["HOST:PORT"]' in error.value.remedy


def test_without_tf_config_it_is_said_what_sets_it(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="TF_CONFIG is not set") as error:
        create_strategy("parameter_server")
    assert "headrace run JOB --strategy parameter_server --workers N" in error.value.remedy


def test_a_process_does_only_what_its_task_is(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 1}}))
    assert Cluster.here() == Cluster(("a:2", "b:2"), ("a:3",), "worker", 1)
    with pytest.raises(UserError, match=r"this process is worker 1, and only the coordinator \(chief\) runs the job"):
        ParameterServerStrategy()
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}))
    with pytest.raises(UserError, match="this process is the coordinator"):
        serve()


def test_at_least_one_step_is_scheduled(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}))
    with pytest.raises(ValueError, match="ahead is at least 1"):
        ParameterServerStrategy(ahead=0)


def test_other_strategies_have_no_servers():
    from foundation.tf import tf

    assert servers_of(tf.distribute.get_strategy()) == []
