"""Killed with SIGKILL at any moment, the same command ends with the same bits as an undisturbed run."""

import shutil

import numpy as np
import pytest
import yaml


@pytest.mark.parametrize("stage", ["retrieval", pytest.param("ranking", marks=pytest.mark.long)])
def test_killed_twice_ends_with_the_same_bits(stage, finished_run, prepared, job_file, tools, headrace, tmp_path):
    runs = [finished_run, shutil.copytree(prepared, tmp_path / "killed")]
    checkpoints = runs[1] / "checkpoints" / stage
    for committed in (1, 3):  # killed after the first checkpoint, then again later on
        process = tools.start("train", stage, job_file, "--run-dir", runs[1])
        step = 6 * committed
        tools.kill_when(process, lambda step=step: any(checkpoints.glob(f"step-{step:08d}")))
        assert process.wait() == -9
        assert not (runs[1] / "curves.jsonl").exists()
    code, said = headrace("train", stage, job_file, "--run-dir", runs[1])
    assert code == 0, said
    assert f"{stage}: going on from step" in said
    (name, undisturbed), (other, killed) = (tools.variables_of(run, stage) for run in runs)
    assert name == other
    assert undisturbed.keys() == killed.keys()
    assert any(key.startswith("tables/") and "/rows/c/" in key for key in undisturbed), "tables are among them"
    different = [key for key in undisturbed if not np.array_equal(undisturbed[key], killed[key])]
    assert different == []
    assert tools.curves_of(runs[0], stage) == tools.curves_of(runs[1], stage)
    assert not list(tmp_path.rglob("*.partial"))


def test_stopped_between_an_epochs_last_step_and_its_validation(job_file, tools, headrace, tmp_path, monkeypatch):
    job = tmp_path / "job.yaml"  # every step is a checkpoint, the last of an epoch included
    document = {**yaml.safe_load(job_file.read_text()), "training": {"steps_per_call": 3, "checkpoint_every": 1}}
    document["retrieval"]["batch_size"] = 512  # few steps
    job.write_text(yaml.safe_dump(document))
    runs = [tmp_path / "undisturbed", tmp_path / "stopped"]
    for run in runs:
        assert headrace("data", "prepare", job, "--run-dir", run)[0] == 0
    assert headrace("train", "retrieval", job, "--run-dir", runs[0])[0] == 0

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trainer.stages.retrieval.evaluate", stop)
        assert headrace("train", "retrieval", job, "--run-dir", runs[1])[0] == 130
    code, said = headrace("train", "retrieval", job, "--run-dir", runs[1])
    assert code == 0, said
    (name, undisturbed), (other, stopped) = (tools.variables_of(run, "retrieval") for run in runs)
    assert name == other
    assert [key for key in undisturbed if not np.array_equal(undisturbed[key], stopped[key])] == []
    assert tools.curves_of(runs[0], "retrieval") == tools.curves_of(runs[1], "retrieval")
