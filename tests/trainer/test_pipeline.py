"""`headrace run`: every stage, once; what is done is skipped, what changed is done again."""

import json
import shutil

import pytest

from evaluation.bootstrap import Interval
from trainer.job import Job, load_job
from trainer.pipeline import STAGES, made_from
from trainer.run_directory import RunDirectory
from trainer.workspace import Workspace


def test_a_finished_run_holds_what_was_promised(finished_run):
    for name in ("config.yaml", "checkpoints", "tensorboard", "index", "export", "metrics.json", "report.html"):
        assert (finished_run / name).exists(), name
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert metrics["retrieval"].keys() == {"two_tower", "popularity", "recent_popularity", "item_knn"}
    for models in metrics.values():
        for values in models.values():
            assert all(interval.keys() == set(Interval._fields) for interval in values.values())
    ndcg = metrics["retrieval"]["two_tower"]["ndcg@20"]
    assert 0 <= ndcg["low"] <= ndcg["value"] <= ndcg["high"] <= 1
    assert "true_satisfied_click" in metrics["funnel"]["funnel"]
    assert {"click", "watch_seconds", "like", "value"} == metrics["ranking"].keys()
    report = (finished_run / "report.html").read_text()
    assert "two_tower" in report
    assert "<script" not in report


def test_what_is_done_is_skipped(finished_run, job_file, tools):
    before = (finished_run / "metrics.json").stat().st_mtime_ns
    done = tools.command("run", job_file, "--run-dir", finished_run)
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        assert f"{stage}: done before, skipped" in done.stderr
    assert (finished_run / "metrics.json").stat().st_mtime_ns == before
    assert "two_tower over popularity" in done.stdout
    assert "headrace recommend --run" in done.stdout


def test_a_lost_artefact_is_made_again(finished_run, job_file, tools, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "index")
    done = tools.command("index", "build", job_file, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert "index: done in" in done.stderr
    assert (run / "index" / "index.json").exists()


@pytest.mark.parametrize(
    ("part", "key", "value", "again"),
    [
        ("ranking", "epochs", 2, {"ranking", "export", "evaluate", "report"}),
        ("retrieval", "epochs", 3, {"retrieval", "index", "export", "evaluate", "report"}),
        ("postranking", "diversity", 0.9, {"export", "evaluate", "report"}),
        ("inputs", "history_length", 7, set(STAGES)),
    ],
)
def test_a_change_reaches_what_depends_on_it_and_nothing_else(job_file, tmp_path, part, key, value, again):
    job = load_job(job_file)
    document = job.document()
    document[part][key] = value
    changed = Job.model_validate(document)
    run = RunDirectory(tmp_path)
    digests = [{s: made_from(Workspace(j, run, "x"), s) for s in STAGES} for j in (job, changed)]
    assert {stage for stage in STAGES if digests[0][stage] != digests[1][stage]} == again


def test_a_changed_log_is_read_again(job_file, world, tmp_path):
    log = shutil.copytree(world, tmp_path / "log")
    document = load_job(job_file).document()
    document["inputs"]["path"] = str(log)
    workspace = Workspace(Job.model_validate(document), RunDirectory(tmp_path / "run"), "x")
    before = made_from(workspace, "evaluate")
    (log / "items.parquet").write_bytes((log / "items.parquet").read_bytes() + b" ")
    assert made_from(workspace, "evaluate") != before
