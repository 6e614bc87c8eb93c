"""The scaling suite ends and gives its figures; what it compares did the same work; what it counts is what is sent."""

import math
import sys

import numpy as np
import pytest

from benchmarks import scaling_suite
from benchmarks.counting import CountingCommunicator
from benchmarks.peers import PYTHON, PeerMissing
from benchmarks.scaling_problem import MODELS, Case, Feature, Sizes, planned_bytes
from benchmarks.worker_groups import WorkerGroup
from foundation.errors import UserError
from foundation.tf import tf

ANSWERS = """
import json, os, sys
for line in sys.stdin:
    question = json.loads(line)
    if question.get("end") == os.environ["WORKER"]:
        sys.exit(3)
    while question.get("end"):  # as one that waits for the other
        pass
    print(json.dumps({"cores": sorted(os.sched_getaffinity(0)), **question}), flush=True)
"""


@pytest.mark.long
def test_a_quick_run_gives_every_figure():
    report = scaling_suite.run(quick=True)
    assert report.suite == "scaling"
    metrics = report.metrics
    assert all(math.isfinite(value) and value >= 0 for value in metrics.values())
    torch = PYTHON.exists() and not any("was not measured" in note for note in report.notes)
    for model in MODELS:
        rates = {name: metrics[f"{model}.{name}_examples_per_s"] for name in ("one", "one_on_whole_batches", "two")}
        assert metrics[f"two_worker_throughput_vs_one_{model}"] == pytest.approx(rates["two"] / rates["one"])
        strong = metrics[f"two_worker_throughput_vs_one_{model}_strong"]
        assert strong == pytest.approx(rates["two"] / rates["one_on_whole_batches"])
        assert (f"two_worker_examples_per_second_vs_torch_{model}" in metrics) == torch
        assert 0.5 < metrics[f"bytes_measured_vs_planned_{model}"] < 2  # few ids: far from the law's mean
    few, many = scaling_suite.QUICK.few_tables, scaling_suite.QUICK.many_tables
    counts = {metrics[f"collectives_per_step_{tables}_tables"] for tables in (few, many)}
    assert len(counts) == 1
    assert metrics["bfloat16_wire_bytes_vs_float32"] == pytest.approx(0.5)


class Contender:
    def __init__(self, losses, vectors):
        self._losses, self._vectors = np.array(losses), np.array(vectors)

    def train(self, number, share, ahead):
        assert not share
        assert ahead
        return 1.0, self._losses

    def vectors(self, folder):
        return self._vectors


def test_equal_work_is_told_from_other_work(tmp_path):
    one = Contender([0.7, 0.6], [1.0, 2.0])
    scaling_suite._check_equal_work(
        "dlrm", {"headrace_one": one, "two": Contender([0.7, 0.60001], [1, 2.0001])}, tmp_path
    )
    for other in (Contender([0.7, 0.5], [1, 2]), Contender([0.7, 0.6], [1, 2.1]), Contender([0.7, math.nan], [1, 2])):
        with pytest.raises(AssertionError, match="two and headrace_one"):
            scaling_suite._check_equal_work("dlrm", {"headrace_one": one, "two": other}, tmp_path)


class Quiet:
    """A communicator that moves nothing."""

    rank, size = 1, 3

    def all_to_all(self, rows, sizes):
        return rows

    def all_gather(self, value):
        return value

    def all_reduce(self, value):
        return value

    def broadcast(self, value, root=0):
        return value


def test_bytes_are_counted_that_leave_for_other_ranks():
    communicator = CountingCommunicator(Quiet())
    sizes = tf.constant([[9, 9, 9], [1, 5, 2], [9, 9, 9]], tf.int64)  # rank 1 keeps 5 of 8 rows
    communicator.all_gather(tf.zeros([7]))
    with communicator.counting() as calls:
        communicator.all_to_all(tf.zeros([8, 4]), sizes)
        communicator.all_to_all(tf.zeros([8], tf.int64), sizes)
        communicator.all_to_all(tf.zeros([8, 4], tf.bfloat16), sizes)
        communicator.all_gather(tf.zeros([6], tf.int32))
        communicator.all_reduce(tf.zeros([6]))
        communicator.broadcast(tf.zeros([2]), 1)
        communicator.broadcast(tf.zeros([2]), 0)
    communicator.all_reduce(tf.zeros([6]))
    assert [int(call.leaving) for call in calls] == [3 * 16, 3 * 8, 3 * 8, 2 * 24, 2 * 2 * 24 // 3, 2 * 8, 0]
    assert [call.dtype for call in calls[:3]] == ["float32", "int64", "bfloat16"]


def test_the_plan_expects_every_row_where_all_are_asked_for():
    case = Case("embedding", [100, 5000], [Feature("a", 0), Feature("b", 1)], {}, 0)
    sizes = Sizes(batch=1 << 24, dim=8)
    # a small table is on both: each worker sends the other its ids and gradients
    counts, replicated = 2 * 2 * 8, 100 * (8 + 4 * 8)
    spread = 5000 / 2 * (8 + 2 * 4 * 8)  # ids, vectors, gradients of the other's half
    assert planned_bytes(case, sizes) == pytest.approx(2 * (counts + replicated + spread), rel=0.01)


def command(script):
    return [sys.executable, "-c", script]


def test_workers_are_pinned_each_to_a_core_and_asked_together():
    with WorkerGroup(command(ANSWERS), "a worker", [{"WORKER": "0"}, {"WORKER": "1"}]) as group:
        answers = group.ask({"question": 1}, [{"own": "a"}, {"own": "b"}])
    assert [answer["own"] for answer in answers] == ["a", "b"]
    assert all(len(answer["cores"]) == 1 for answer in answers)
    assert answers[0]["cores"] != answers[1]["cores"]


def test_where_one_worker_ends_the_others_do_not_wait_for_it():
    with (
        WorkerGroup(command(ANSWERS), "a worker", [{"WORKER": "0"}, {"WORKER": "1"}]) as group,
        pytest.raises(PeerMissing, match="worker 1 was not measured: it ended with code 3"),
    ):
        group.ask({"end": "1"})


def test_a_group_of_which_one_does_not_start_is_not_left_behind():
    failing = "import os, sys\nif os.environ['WORKER'] == '1': sys.exit(4)\n"
    with pytest.raises(PeerMissing, match="ended with code 4"):
        WorkerGroup(command(failing + ANSWERS), "a worker", [{"WORKER": "0"}, {"WORKER": "1"}])


def test_more_workers_than_cores_are_refused():
    with pytest.raises(UserError, match="want a core each"):
        WorkerGroup(command(ANSWERS), "a worker", [{}] * 4096)
