"""`headrace run`: every stage, once; what is done is skipped, what changed is done again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.bootstrap import Interval
from inputs.simulate.config import SimulateConfig
from inputs.simulate.world import simulate
from retrieval.vectors import Vectors
from serving.funnel import Funnel
from trainer.candidates import index_as_of
from trainer.job import Job, load_job
from trainer.judged_funnel import INDEX_BUILDS, judge_funnel, rebuilds
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


def _cut(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("artefact", "stage", "damage"),
    [
        ("index/index.json", "index", Path.unlink),
        ("index/index.json", "index", _cut),
        ("candidates.npy", "index", Path.unlink),
        ("candidates.npy", "index", _cut),
        ("export/ranker/saved_model.pb", "export", Path.unlink),
        pytest.param("export/ranker/saved_model.pb", "export", _cut, marks=pytest.mark.long),
        pytest.param("checkpoints/retrieval/BEST/variables.index", "retrieval", Path.unlink, marks=pytest.mark.long),
        ("checkpoints/retrieval/BEST/variables.index", "retrieval", _cut),
    ],
)
def test_a_damaged_artefact_is_made_again(artefact, stage, damage, finished_run, job_file, headrace, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    best = json.loads((run / "stages.json").read_text())["retrieval"]["facts"]["best_step"]
    path = run / artefact.replace("BEST", f"step-{best:08d}")
    damage(path)
    words = {"index": ["index", "build"], "export": ["export"], "retrieval": ["train", "retrieval"]}[stage]
    if stage == "retrieval":  # what was committed is not thrown away unasked
        assert headrace(*words, job_file, "--run-dir", run)[0] == 2
        words.append("--fallback")
    code, said = headrace(*words, job_file, "--run-dir", run)
    assert code == 0, said
    assert f"{stage}: done in" in said
    code, said = headrace(*words, job_file, "--run-dir", run)
    assert code == 0, said
    assert f"{stage}: done before, skipped" in said


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


def test_a_changed_log_is_read_again(own_log, tmp_path):
    job, log = own_log
    workspace = Workspace(load_job(job), RunDirectory(tmp_path / "run"), "x")
    before = made_from(workspace, "evaluate")
    (log / "items.parquet").write_bytes((log / "items.parquet").read_bytes() + b" ")
    assert made_from(workspace, "evaluate") != before


def test_what_was_trained_on_another_log_is_not_gone_on_from(own_log, headrace, tmp_path):
    job, log = own_log
    for run in ("first", "second"):
        assert headrace("data", "prepare", job, "--run-dir", tmp_path / run)[0] == 0
    code, said = headrace("train", "retrieval", job, "--run-dir", tmp_path / "first")
    assert code == 0, said
    shutil.rmtree(log)
    simulate(SimulateConfig(users=300, items=500, days=10, impressions=20_000, seed=2), log)
    code, said = headrace("train", "retrieval", job, "--run-dir", tmp_path / "first")
    assert code == 2
    assert "the stage 'data' was made from a log that has changed since" in said
    for run in ("first", "second"):
        assert headrace("data", "prepare", job, "--run-dir", tmp_path / run)[0] == 0
        code, said = headrace("train", "retrieval", job, "--run-dir", tmp_path / run)
        assert code == 0, said
        assert ("what it was trained on has changed: training anew" in said) == (run == "first")
    curves = [(tmp_path / run / "curves.jsonl").read_text() for run in ("first", "second")]
    assert curves[0] == curves[1], "nothing of the first log is left"


def test_an_index_is_built_before_the_queries_it_answers():
    times = np.array([5, 90_000, 86_400, 400_000, 5_000_000])
    assert rebuilds(times).tolist() == [0, 86_400, 86_400, 345_600, 4_924_800]
    many = np.arange(100) * 86_400 + 7
    built = rebuilds(many)
    assert (built <= many).all()
    assert len(np.unique(built)) == INDEX_BUILDS


@pytest.fixture
def workspace(finished_run, job_file):
    return Workspace(load_job(job_file), RunDirectory(finished_run), "x")


def test_an_index_as_of_a_moment_knows_nothing_after_it(workspace):
    moment = workspace.split.validation_end
    vectors = Vectors(workspace.two_tower, workspace.space)
    candidates, index = index_as_of(workspace, vectors, moment)
    known = workspace.interactions.between(0, moment)
    workspace.space.follow(known)
    assert np.array_equal(candidates, Vectors(workspace.two_tower, workspace.space).candidates(moment))
    workspace.space.follow(workspace.interactions)
    assert not np.array_equal(candidates, vectors.candidates(workspace.end)), "later positives would show"
    assert index.facts.size == len(workspace.space.items)


def test_the_funnel_is_judged_over_what_was_there(workspace, monkeypatch):
    queries, _ = workspace.queries(workspace.split.validation_end, workspace.split.end, 30)
    asked = []

    class Spy(Funnel):
        def answer(self, user, history, seen, now, size=None, blocked=None):
            answer = super().answer(user, history, seen, now, size, blocked)
            asked.append((now, self._vectors, answer.slate.items))
            return answer

    moments = {}

    def spied(workspace, vectors, moment):
        candidates, index = index_as_of(workspace, vectors, moment)
        moments[id(candidates)] = moment
        return candidates, index

    monkeypatch.setattr("trainer.judged_funnel.index_as_of", spied)
    funnel = Spy.load(workspace.run.path)
    asked.clear()
    judge_funnel(workspace, funnel, queries)
    assert len(asked) == len(queries)
    for now, candidates, items in asked:
        moment = moments[id(candidates)]
        assert moment <= now
        assert (funnel.space.publication[items] < moment).all()


def test_a_run_directory_may_be_moved(finished_run, job_file, tmp_path):
    record = json.loads((finished_run / "stages.json").read_text())
    document = load_job(job_file).document()
    assert record["data"]["facts"]["elsewhere"] == document["inputs"]["path"], "a log of the user's own stays there"
    record["data"]["facts"]["elsewhere"] = None  # as where the data stage made the dataset
    moved = tmp_path / "moved"
    shutil.copytree(document["inputs"]["path"], moved / "data")
    (moved / "stages.json").write_text(json.dumps(record))
    assert Workspace(load_job(job_file), RunDirectory(moved), "x").dataset.path == moved / "data"


@pytest.mark.long
def test_without_a_validation_period_every_epoch_is_trained_and_the_last_is_kept(job_file, headrace, tmp_path):
    run = tmp_path / "run"
    words = [job_file, "--run-dir", run, "--set", "inputs.split.validation=0", "--set", "ranking.patience=1"]
    for command in (["data", "prepare"], ["train", "ranking"]):
        code, said = headrace(*command, *words)
        assert code == 0, said
    facts = json.loads((run / "stages.json").read_text())["ranking"]["facts"]
    steps = [int(path.name.removeprefix("step-")) for path in (run / "checkpoints" / "ranking").glob("step-*")]
    assert facts["best_step"] == max(steps)
    points = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    assert points
    assert not any(point["metric"].startswith("validation") for point in points)
