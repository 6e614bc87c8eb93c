"""What a user gets wrong is answered in one message that names it: exit code 2, no traceback, nothing half-written."""

import errno
import fcntl
import os
import re
import shutil
import signal
import socket

import pytest
import yaml

from foundation.tf import tf


@pytest.fixture
def small(job_file, tmp_path):
    """Writes the small job with some keys changed; returns its path."""

    def write(**keys: object):
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(job_file.read_text()), **keys}))
        return path

    return write


def test_a_misspelt_key_suggests_the_nearest(headrace, small):
    code, said = headrace("run", small(retrieval={"epoch": 3}))
    assert code == 2
    assert "retrieval.epoch: unknown key; did you mean 'epochs'?" in said


def test_every_problem_of_a_job_is_named_at_once(headrace, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: 'has space'\nranking: {epochs: many}\n")
    code, said = headrace("run", path)
    assert code == 2
    assert "3 problems" in said
    assert "inputs: this key is missing" in said
    assert re.search(r"ranking.epochs: .*valid integer.* \(found 'many'\)", said)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrieval.epochs", "wanted KEY=VALUE"),
        ("name.first=x", "'name' holds a value, not keys"),
        ("retrieval.epochs=[1", "is not valid YAML"),
        ("training.strategy=horrovod", "training.strategy: Input should be 'single', 'mirrored'"),
        ("training.error_feedback=true", "training: error_feedback: nothing is lost in float32"),
        ("run_directory='{name.first}'", "run_directory: '{name.first}' has an unknown placeholder"),
        ("inputs.format=csv", "inputs.format: Input should be 'simulated', 'movielens', 'recbole' or 'columns'"),
    ],
)
def test_a_bad_override_is_named(headrace, small, override, message):
    code, said = headrace("run", small(), "--set", override)
    assert code == 2
    assert message in said


def test_a_missing_job_file_names_its_nearest_sibling(headrace, small):
    small()
    code, said = headrace("run", small().with_name("jobb.yaml"))
    assert code == 2
    assert "no such job file" in said
    assert "job.yaml'?" in said


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "not valid YAML"), ("- 1", "a job is a mapping"), ("", "mapping")]
)
def test_a_file_that_is_no_job(headrace, tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    code, said = headrace("run", path)
    assert code == 2
    assert message in said


def _movielens(tmp_path, row):
    log = tmp_path / "ml"
    log.mkdir()
    (log / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n1,10,4,100\n{row}\n2,10,3,200\n")
    return {"format": "movielens", "path": str(log)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,20,nan,150", "ratings.csv: row 3: rating is 'nan': a label must not be NaN"),
        ("-1,20,4,150", "ratings.csv: row 3: user_id is '-1': an id must not be negative"),
        ("1,20,4", "ratings.csv: row 3: 3 columns, 4 are wanted"),
    ],
)
def test_a_bad_row_leaves_nothing_half_written_and_its_remedy_works(headrace, small, tmp_path, row, message):
    job, run = small(inputs=_movielens(tmp_path, row)), tmp_path / "run"
    code, said = headrace("data", "prepare", job, "--run-dir", run)
    assert code == 2
    assert message in said
    assert sorted(entry.name for entry in run.iterdir()) == [".headrace.lock", "config.yaml", "stages.json"]
    shares = ["--set", "inputs.split={validation: 0.4, test: 0.4}"]
    code, said = headrace("data", "prepare", job, "--run-dir", run, "--set", "inputs.on_bad_row=drop", *shares)
    assert "made by another job" not in said
    assert "cannot be split by time" in said, "two rows are too few, which is the next thing to be told"


def test_a_missing_log_is_named(headrace, small, tmp_path):
    job = small(inputs={"format": "movielens", "path": str(tmp_path / "nowhere")})
    code, said = headrace("run", job, "--run-dir", tmp_path / "run")
    assert code == 2
    assert "nowhere: no such file or folder" in said


def test_a_run_directory_of_another_job_is_refused(headrace, small, finished_run):
    code, said = headrace("run", small(), "--set", "seed=7", "--run-dir", finished_run)
    assert code == 2
    assert "made by another job (seed: 0 there, 7 here)" in said


def test_a_folder_that_is_no_run_directory_is_refused(headrace, small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("dear: me")
    code, said = headrace("run", small(), "--run-dir", tmp_path / "mine")
    assert code == 2
    assert "exists and is not a run directory" in said
    assert [(entry.name, entry.read_text()) for entry in (tmp_path / "mine").iterdir()] == [("config.yaml", "dear: me")]


def test_a_run_killed_while_it_began_can_be_begun_again(headrace, job_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".headrace.lock").touch()
    (run / ".config.yaml.77.partial").write_text("na")
    code, said = headrace("data", "prepare", job_file, "--run-dir", run)
    assert code == 0, said


def test_a_run_directory_inside_the_logs_folder_is_no_part_of_the_log(headrace, own_log):
    job, log = own_log
    for said_before in ("data: done in", "data: done before, skipped"):
        code, said = headrace("data", "prepare", job, "--run-dir", log / "run")
        assert code == 0, said
        assert said_before in said


@pytest.mark.parametrize("content", ["[]", '{"data": 1}'])
def test_a_damaged_record_of_stages_is_named(headrace, job_file, prepared, tmp_path, content):
    run = shutil.copytree(prepared, tmp_path / "run")
    (run / "stages.json").write_text(content)
    code, said = headrace("data", "prepare", job_file, "--run-dir", run)
    assert code == 2
    assert "stages.json: damaged" in said


def test_a_stage_before_its_turn_says_what_to_run(headrace, job_file, tmp_path):
    code, said = headrace("train", "retrieval", job_file, "--run-dir", tmp_path / "run")
    assert code == 2
    assert "the stage 'data' is not done yet" in said
    assert f"headrace run {job_file}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user", "nobody"], "user 'nobody' is not in the log"),
        (["--newcomer", "--block", "99"], "blocked item '99' is not in the catalogue"),
        ([], "whose slate?"),
        (["--user", "1", "--size", "0"], "'--size': Input should be greater than or equal to 1"),
    ],
)
def test_a_slate_that_cannot_be_given(headrace, finished_run, words, message):
    code, said = headrace("recommend", "--run", finished_run, *words)
    assert code == 2
    assert message in said


def test_a_run_without_a_bundle(headrace, tmp_path):
    code, said = headrace("recommend", "--run", tmp_path / "nowhere", "--newcomer")
    assert code == 2
    assert "nowhere: no such folder" in said


def test_a_port_in_use(headrace, finished_run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = headrace("serve", "--run", finished_run, "--port", taken.getsockname()[1])
    assert code == 2
    assert "cannot listen there" in said


def test_a_world_is_never_written_over_a_folder_and_options_are_checked(headrace, tmp_path):
    code, said = headrace("data", "simulate", "--out", tmp_path)
    assert code == 2
    assert "exists already" in said
    code, said = headrace("data", "simulate", "--out", tmp_path / "w", "--users", 0)
    assert code == 2
    assert "--users: Input should be greater than or equal to 1" in said


@pytest.mark.parametrize("full", ["python", "tensorflow"])
def test_a_disk_that_fills_in_a_stage_is_said_as_one(full, prepared, job_file, headrace, tmp_path, monkeypatch):
    run = shutil.copytree(prepared, tmp_path / "run")
    if full == "python":
        replace = os.replace

        def fail(source, target):
            if "state.json" in str(target):
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)
    else:

        def fail(*_):
            raise tf.errors.ResourceExhaustedError(None, None, "variables.data; No space left on device")

        monkeypatch.setattr(tf.train.Checkpoint, "write", fail)
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 2
    assert re.search(r"checkpoints/retrieval/\S+: the disk is full.\nFree some space", said)
    assert not list(run.rglob("*.partial"))
    monkeypatch.undo()
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 0, said


def test_a_name_that_the_log_lacks_is_told_before_anything_is_recorded(headrace, small, tmp_path):
    run = tmp_path / "run"
    for keys, message in (
        ({"postranking": {"caps": {"author": 2}}}, "postranking.caps: items have no category feature 'author'"),
        ({"inputs": {"positive": {"label": "liked"}}}, "inputs.positive.label: no label 'liked'"),
    ):
        keys["inputs"] = {**yaml.safe_load(small().read_text())["inputs"], **keys.get("inputs", {})}
        code, said = headrace("run", small(**keys), "--run-dir", run)
        assert code == 2
        assert message in said
    code, said = headrace("data", "prepare", small(), "--run-dir", run)
    assert code == 0, said


def test_a_damaged_config_of_a_run_is_named(headrace, job_file, prepared, tmp_path):
    run = shutil.copytree(prepared, tmp_path / "run")
    (run / "config.yaml").write_text("a: [1")
    code, said = headrace("data", "prepare", job_file, "--run-dir", run)
    assert code == 2
    assert "config.yaml: damaged" in said


def test_ctrl_c_stops_in_words_and_the_same_command_goes_on(job_file, prepared, tools, headrace, tmp_path):
    run = shutil.copytree(prepared, tmp_path / "run")
    process = tools.start("train", "retrieval", job_file, "--run-dir", run)
    tools.kill_when(process, lambda: any((run / "checkpoints" / "retrieval").glob("step-*")), signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "The same command goes on from here.\nstopped; nothing half-written is left" in said
    assert "Traceback" not in said
    assert not list(run.rglob("*.partial"))
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 0, said
    assert "going on from step" in said


def test_two_processes_do_not_share_a_run_directory(job_file, headrace, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".headrace.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (run / "config.yaml").write_text("{}")
        code, said = headrace("data", "prepare", job_file, "--run-dir", run)
    assert code == 2
    assert "another headrace process is working in this run directory" in said
    assert (run / "config.yaml").read_text() == "{}", "the other process's job stands"
