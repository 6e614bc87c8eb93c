"""A loss that is not finite: the training stops, or goes on without the batch, and leaves what there is to look at."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

RETRIEVAL = ("train", "retrieval")
SKIP = ("--set", "training.on_nonfinite=skip")


@pytest.fixture
def run(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "run")


@pytest.fixture
def spoilt(monkeypatch):
    """spoilt({(epoch, k), ...}): those batches ask for a loss that is not finite."""
    from inputs.batches import Batches

    def spoil(batches):
        def batch(self, epoch, k, *where, then=Batches.batch):
            made = then(self, epoch, k, *where)
            return {**made, "log_q": made["log_q"] * np.nan} if (epoch, k) in batches else made

        monkeypatch.setattr(Batches, "batch", batch)

    return spoil


def _position(run):
    last = sorted((run / "checkpoints" / "retrieval").glob("step-*"))[-1]
    return json.loads((last / "state.json").read_text())["content"]["state"]["position"]


def _assert_post_mortem(folder, step, ranks=1):
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["stage"], summary["step"], summary["losses"]["loss"]) == ("retrieval", step, "nan")
    with np.load(folder / "batch.npz") as batch:
        assert len(batch["item_position"]) == 128, "the global batch"
        assert np.isnan(batch["log_q"]).all()
        assert batch["history_item_id.row_splits"][-1] == len(batch["history_item_id.values"])
    for rank in range(ranks):
        norms = json.loads((folder / f"rank-{rank}.json").read_text())
        assert {"user_id", "item_id"} <= norms["tables"].keys()
        assert norms["dense"]
        assert "train" in (folder / f"rank-{rank}.stack.txt").read_text()


def test_it_stops(run, spoilt, job_file, headrace):
    spoilt({(0, 7)})
    code, said = headrace(*RETRIEVAL, job_file, "--run-dir", run)
    assert code == 2
    folder = run / "post_mortems" / "retrieval-step-00000007"
    assert f"error: retrieval: the loss is nan at step 7; a post-mortem is in {folder}." in said
    assert "training.on_nonfinite=skip" in said
    _assert_post_mortem(folder, 7)
    assert _position(run)["step"] == 6, "the last commit is kept"


def test_it_skips_and_a_skip_survives(run, spoilt, job_file, headrace, tools, tmp_path, monkeypatch):
    """Stopped first, then gone on with from there under the other policy; and a run that was killed after the skip ends
    with the bits of one that was not."""
    other = shutil.copytree(run, tmp_path / "other")
    spoilt({(0, 7), (1, 2)})
    code, said = headrace(*RETRIEVAL, job_file, "--run-dir", run)
    assert code == 2
    code, said = headrace(*RETRIEVAL, job_file, "--run-dir", run, *SKIP)
    assert code == 0, said
    per_epoch = _position(run)["step"] // 2
    assert "back to step 6, to do without the batch of step 7" in said
    assert f"trained without the batches of steps 7, {per_epoch + 2} (on_nonfinite: skip)" in said
    assert _position(run)["skipped"] == [7, per_epoch + 2]
    _assert_post_mortem(run / "post_mortems" / "retrieval-step-00000007", 7)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # behind the first skip, before the second
        patched.setattr("trainer.stages.retrieval.evaluate", stop)
        assert headrace(*RETRIEVAL, job_file, "--run-dir", other, *SKIP)[0] == 130
    code, said = headrace(*RETRIEVAL, job_file, "--run-dir", other, *SKIP)
    assert code == 0, said
    assert f"going on from step {per_epoch // 6 * 6}" in said
    assert "step 7." not in said, "it was not met again"
    assert _position(other)["skipped"] == [7, per_epoch + 2]
    (_, ours), (_, theirs) = (tools.variables_of(at, "retrieval") for at in (run, other))
    assert [key for key in ours if not np.array_equal(ours[key], theirs[key])] == []


def test_so_many_are_no_accident(run, spoilt, job_file, headrace):
    spoilt({(0, 1), (0, 2), (0, 3)})
    code, said = headrace(*RETRIEVAL, job_file, "--run-dir", run, *SKIP, "--set", "training.most_skipped=2")
    assert code == 2
    assert "the loss is nan at step 3, and the batches of steps 1, 2 were skipped before" in said
    assert sorted(path.name for path in (run / "post_mortems").iterdir()) == [
        f"retrieval-step-0000000{step}" for step in (1, 2, 3)
    ]


@pytest.mark.long
def test_two_workers_skip_together_and_one_goes_on(run, job_file, tools, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "faults"), "FAULT_BATCH": "0:7"}
    for at, workers in ((run, 2), (other, 1)):
        words = (*RETRIEVAL, job_file, "--run-dir", at, "--workers", workers, *SKIP)
        done = tools.command(*words, env=environment)
        assert done.returncode == 0, done.stderr
        assert _position(at)["skipped"] == [7]
    _assert_post_mortem(run / "post_mortems" / "retrieval-step-00000007", 7, ranks=2)
    ours, theirs = (tools.curves_of(at, "retrieval") for at in (run, other))
    assert [(point["step"], point["metric"]) for point in ours] == [(p["step"], p["metric"]) for p in theirs]
    np.testing.assert_allclose([p["value"] for p in ours], [p["value"] for p in theirs], rtol=1e-4)
    stopped = tools.command(*RETRIEVAL, job_file, "--run-dir", run, "--workers", 2, env=environment)
    assert stopped.returncode == 0, "what was skipped stays so"
