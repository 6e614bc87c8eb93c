"""A job on several workers ends with what one makes of it, and says what went wrong."""

import json
import os
import shutil
import signal

import pytest


def _curves(run):
    """{(stage, step, metric): value}"""
    points = map(json.loads, (run / "curves.jsonl").read_text().splitlines())
    return {(point["stage"], point["step"], point["metric"]): point["value"] for point in points}


def _numbers(metrics, *path):
    """Every value of nested metrics by its path."""
    if isinstance(metrics, dict):
        return {key: value for name in metrics for key, value in _numbers(metrics[name], *path, name).items()}
    return {path: metrics} if isinstance(metrics, float) else {}


def _assert_same_curves(run, other, stages=("retrieval", "ranking")):
    ours, theirs = ({point: v for point, v in _curves(at).items() if point[0] in stages} for at in (run, other))
    assert ours.keys() == theirs.keys()
    for point, value in theirs.items():
        assert ours[point] == pytest.approx(value, rel=1e-4, abs=1e-6), point


def test_two_workers_end_with_one_workers_metrics(two_workers_run, finished_run):
    _assert_same_numbers(two_workers_run, (two_workers_run.parent / "said.txt").read_text(), finished_run, {0, 1})
    assert sorted(path.name for path in (two_workers_run / "logs").iterdir()) == ["rank-0.log", "rank-1.log"]


@pytest.mark.long
def test_two_replicas_end_with_one_workers_metrics(job_file, finished_run, tools, tmp_path):
    run = tmp_path / "run"
    done = tools.command("run", job_file, "--run-dir", run, "--workers", 2, "--strategy", "mirrored")
    assert done.returncode == 0, done.stdout + done.stderr
    _assert_same_numbers(run, done.stderr, finished_run, {0})


def _assert_same_numbers(run, said, finished_run, processes):
    """And the chief alone spoke; processes: those whose ops were recorded."""
    _assert_same_curves(run, finished_run)
    ours, theirs = (_numbers(json.loads((at / "metrics.json").read_text())) for at in (run, finished_run))
    assert ours.keys() == theirs.keys()
    models = [key for key in theirs if "milliseconds" not in key and "value" in key]
    for key in models:
        assert ours[key] == pytest.approx(theirs[key], rel=0.02, abs=0.02), key
    assert (run / "report.html").stat().st_size > 10_000
    assert "retrieval: done in" in said
    assert said.count("retrieval: epoch 1 of 2") == 1, "the chief alone speaks"
    timeline = json.loads((run / "timelines" / "retrieval.json").read_text())["traceEvents"]
    assert {event["pid"] for event in timeline} == processes


@pytest.mark.long
def test_a_killed_rank_is_named_and_one_worker_goes_on(job_file, finished_run, prepared, tools, headrace, tmp_path):
    run = shutil.copytree(prepared, tmp_path / "run")
    process = tools.start("train", "retrieval", job_file, "--run-dir", run, "--workers", 2, "--restarts", 0)
    checkpoints = run / "checkpoints" / "retrieval"
    victim = []

    def first_checkpoint():
        if any(checkpoints.glob("step-*")):
            victim.append(tools.process_of(1, process.pid))
        return bool(victim)

    tools.kill_when(process, first_checkpoint, how=0)
    os.kill(victim[0], signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2, said
    assert "rank 1 was killed by SIGKILL" in said or "rank 1" in said.partition("error:")[2], said
    assert "Traceback" not in said
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 0, said
    assert "retrieval: going on from step" in said
    _assert_same_curves(run, finished_run, ("retrieval",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--strategy", "single", "--workers", 2), "2 workers of strategy 'single', which is one process"),
        (("--strategy", "multiworker"), "training.strategy"),
        (("--strategy", "multi_worker"), "TF_CONFIG is not set"),
        (("--workers", 0), "--workers"),
    ],
)
def test_what_cannot_run_is_refused(words, message, job_file, headrace, tmp_path):
    code, said = headrace("run", job_file, "--run-dir", tmp_path / "run", *words)
    assert code == 2
    assert message in said


@pytest.mark.long
def test_parameter_servers_do_without_a_killed_worker(job_file, finished_run, tools, tmp_path):
    run = tmp_path / "run"
    process = tools.start("run", job_file, "--run-dir", run, "--strategy", "parameter_server", "--workers", 2)
    tools.kill_when(process, lambda: any((run / "checkpoints" / "retrieval").glob("step-*")), how=0)
    os.kill(tools.process_of(1, process.pid), signal.SIGKILL)  # rank 0 coordinates
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    ours, theirs = _curves(run), _curves(finished_run)
    assert ours.keys() == theirs.keys(), "every step was taken"
    last = max(step for stage, step, metric in theirs if (stage, metric) == ("ranking", "loss"))
    assert ours["ranking", last, "loss"] == pytest.approx(theirs["ranking", last, "loss"], rel=0.05)


@pytest.mark.long
def test_horovodrun_ends_with_one_workers_metrics(job_file, finished_run, tools, tmp_path):
    pytest.importorskip("horovod", reason="`make horovod` builds it")
    run = tmp_path / "run"
    done = tools.command("run", job_file, "--run-dir", run, "--workers", 2, "--strategy", "horovod")
    assert done.returncode == 0, done.stdout + done.stderr
    _assert_same_curves(run, finished_run)
