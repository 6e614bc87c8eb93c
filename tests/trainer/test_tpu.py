"""`headrace run --strategy tpu`: what is said without a TPU, and the rest on a stand-in for one (tpu_program.py)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.errors import UserError
from strategies import tpu
from trainer.job import load_job
from trainer.tpu_job import check_tpu_job

PROGRAM = Path(__file__).parent / "tpu_program.py"
ADAGRAD = ("--set", "retrieval.embedding_optimizer=Adagrad")


def on_tpu(cores, *words):
    """`headrace WORDS --strategy tpu`, where a TPU of so many cores is stood in for."""
    command = [sys.executable, PROGRAM, cores, *words, *ADAGRAD, "--strategy", "tpu"]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=300)


def curves(run, stage):
    points = map(json.loads, (run / "curves.jsonl").read_text().splitlines())
    return {(p["step"], p["metric"]): p["value"] for p in points if p["stage"] == stage}


@pytest.mark.skipif(tpu._installed("tensorflow-tpu"), reason="tensorflow-tpu is here")
@pytest.mark.parametrize("words", [("run",), ("train", "retrieval")])
def test_without_a_tpu_one_message_says_what_is_needed_and_nothing_is_written(words, headrace, tmp_path):
    code, said = headrace(*words, "configs/demo.yaml", "--strategy", "tpu", "--run-dir", tmp_path / "run")
    assert code == 2
    assert said.startswith(
        "error: tpu: there is no TPU to be had here: the TensorFlow installed is not tensorflow-tpu."
    )
    assert all(need in said for need in ("a Cloud TPU VM", "tensorflow-tpu 2.20.0", "TPU_NAME", "TPU_ZONE"))
    assert said.count("error:") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def one_process(job_file, tools, tmp_path_factory):
    """The run directory of the small job's retrieval stage, trained by one process with what a TPU can train."""
    run = tmp_path_factory.mktemp("one_process") / "run"
    for words in (("data", "prepare"), ("train", "retrieval")):
        kept = ("--set", "training.keep_checkpoints=9")  # any of them may be gone on from, with the best before it
        done = tools.command(*words, job_file, "--run-dir", run, *ADAGRAD, *kept)
        assert done.returncode == 0, done.stderr
    return run


def assert_same(run, other):
    ours, theirs = curves(run, "retrieval"), curves(other, "retrieval")
    assert ours.keys() == theirs.keys()
    for point, value in theirs.items():
        assert ours[point] == pytest.approx(value, rel=1e-4, abs=1e-6), point


@pytest.mark.long
def test_a_job_of_two_cores_ends_with_one_processs_numbers(one_process, job_file, headrace, tmp_path):
    """Every stage; the epoch's last batch is short, so it is filled up."""
    run = tmp_path / "run"
    done = on_tpu(2, "run", job_file, "--run-dir", run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(run, one_process)
    assert (run / "report.html").stat().st_size > 10_000
    assert "ranking: lists have no fixed shape, which a TPU wants: trained by this machine's processor" in done.stderr
    code, said = headrace("recommend", "--run", run, "--newcomer")
    assert code == 0, said
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run, *ADAGRAD)
    assert "retrieval: done before, skipped" in said, "the same job, wherever it ran"


def test_what_one_process_began_a_tpu_ends(one_process, job_file, tmp_path):
    """Tables, slot variables, updates counted and dense weights are put into it."""
    run = shutil.copytree(one_process, tmp_path / "run")
    stages = json.loads((run / "stages.json").read_text())
    stages["retrieval"] = {"begun": stages["retrieval"]["made_from"]}
    (run / "stages.json").write_text(json.dumps(stages))
    (run / "curves.jsonl").unlink()
    shutil.rmtree(sorted((run / "checkpoints" / "retrieval").glob("step-*"))[-1])
    done = on_tpu(1, "train", "retrieval", job_file, "--run-dir", run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "retrieval: going on from step" in done.stderr
    assert_same(run, one_process)


def test_what_a_tpu_cannot_train_is_named_at_once(job_file):
    job = load_job(job_file, ["training.wire=bfloat16", "retrieval.batch_size=100", "retrieval.negatives.hard=2"])
    with pytest.raises(UserError, match="a TPU of 8 cores cannot train this job") as refused:
        check_tpu_job(job, cores=8)
    wanted = ("embedding_optimizer=Adagrad", "batch_size=a multiple of 8", "training.wire=float32", "negatives={}")
    assert all(setting in refused.value.remedy for setting in wanted)
    assert "plan" not in refused.value.remedy
    check_tpu_job(load_job(job_file, [ADAGRAD[1]]), cores=8)
