"""A step's time is divided among its phases, all of it and once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.tf import tf
from trainer.profiling import PHASES, Op, breakdown, join_timelines, phase_of, recorded, write_timeline


@pytest.mark.parametrize(
    ("name", "kind", "phase"),
    [
        ("IteratorGetNext", "IteratorGetNext", "input"),
        ("two_tower/sharded_embedding/GatherV2", "GatherV2", "exchange"),
        ("gradient_tape/two_tower/sharded_embedding/concat", "ConcatV2", "exchange"),
        ("CollectiveAllToAllV2", "CollectiveAllToAllV2", "exchange"),
        ("two_tower/sharded_embedding/HeadraceLookup", "HeadraceLookup", "lookup"),
        ("two_tower/sharded_embedding/HeadraceUpdate", "HeadraceUpdate", "update"),
        ("two_tower/query_tower/dense/MatMul", "MatMul", "dense"),
        ("while", "StatelessWhile", None),
        ("PyFunc", "PyFunc", None),
    ],
)
def test_ops_by_phase(name, kind, phase):
    assert phase_of(Op(name, kind, "thread", 0, 1)) == phase


def test_the_latest_op_counts_and_nothing_is_waiting():
    ops = [
        Op("a", "MatMul", "one", 0, 4_000_000),
        Op("sharded_embedding/b", "GatherV2", "two", 1_000_000, 2_000_000),
        Op("c", "HeadraceUpdate", "one", 7_000_000, 8_000_000),
    ]
    expected = {"input": 0.0, "exchange": 0.5, "lookup": 0.0, "dense": 1.5, "update": 0.5, "wait": 1.5}
    assert breakdown(ops, steps=2) == pytest.approx(expected)


_ops = st.lists(
    st.tuples(
        st.integers(0, 1_000), st.integers(0, 300), st.sampled_from(["MatMul", "HeadraceLookup", "IteratorGetNext"])
    ),
    min_size=1,
    max_size=30,
)


@given(_ops)
def test_phases_add_up_to_the_whole(spans):
    ops = [Op("x", kind, "t", start, start + length) for start, length, kind in spans]
    found = breakdown(ops, steps=1)
    whole = max(op.stop for op in ops) - min(op.start for op in ops)
    assert sum(found.values()) * 1e6 == pytest.approx(whole, abs=1e-6)
    assert set(found) == set(PHASES)
    # by brute force, moment by moment
    for phase in PHASES:
        moments = 0
        for moment in range(min(op.start for op in ops), max(op.stop for op in ops)):
            running = [op for op in ops if op.start <= moment < op.stop]
            latest = {phase_of(op) for op in running if op.start == max(each.start for each in running)}
            moments += (phase in latest) if running else phase == "wait"
        assert found[phase] * 1e6 <= moments + 1e-6


def test_what_ran_is_recorded_and_a_trace_viewer_can_read_it(tmp_path):
    @tf.function
    def step(x):
        with tf.name_scope("tower"):
            return tf.reduce_sum(tf.matmul(x, x))

    x = tf.ones((64, 64))
    step(x)
    with recorded() as recording:
        step(x).numpy()
    [kind] = [op.kind for op in recording.ops if op.name == "tower/MatMul"]
    assert kind.endswith("MatMul"), "some processors have one of their own"
    for rank in (0, 1):
        write_timeline(tmp_path / f"{rank}.json", rank, recording.ops)
    join_timelines(tmp_path / "all.json", [tmp_path / "0.json", tmp_path / "1.json"])
    events = json.loads((tmp_path / "all.json").read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {"rank 0", "rank 1"}
    complete = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 and event["ts"] > 0 for event in complete)
    assert {event["pid"] for event in complete if event["name"] == kind} == {0, 1}


def test_a_profile_within_a_profile_records_nothing():
    with recorded(), recorded() as inner:
        tf.ones(3).numpy()
    assert inner.ops == []
