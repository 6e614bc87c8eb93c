"""`training.warm_start`: a job begins with what another learned, by raw id."""

import json
import shutil

import numpy as np
import pytest
import yaml

from embeddings.checkpoints.manifest import Saved
from embeddings.checkpoints.saved_rows import opened
from inputs.raw_ids import mapped_ids
from trainer.checkpoint_folder import find_checkpoint
from trainer.vocabularies import vocabularies_of

TABLES = ("user_id", "item_id")


@pytest.fixture(scope="module")
def jobs(job_file, tmp_path_factory):
    """(a job, its run with retrieval trained, and a job over more of the same log, which splits it elsewhere)."""
    from tests.trainer.conftest import command

    folder = tmp_path_factory.mktemp("jobs")
    document = yaml.safe_load(job_file.read_text())
    document["retrieval"]["epochs"] = 1
    old = folder / "old.yaml"
    old.write_text(
        yaml.safe_dump({**document, "inputs": {**document["inputs"], "split": {"validation": 0.2, "test": 0.3}}})
    )
    new = folder / "new.yaml"
    document["name"] = "new"
    document["training"] = {"steps_per_call": 3, "checkpoint_every": 1_000}
    new.write_text(yaml.safe_dump(document))
    for words in (("data", "prepare"), ("train", "retrieval")):
        done = command(*words, old, "--run-dir", folder / "old")
        assert done.returncode == 0, done.stderr
    return old, folder / "old", new


@pytest.fixture
def train(headrace, jobs):
    """Prepares the new job's data and trains its retrieval, in a run directory, warm from `source`; (exit code, what
    was said)."""

    def run(folder, source=None):
        words = (jobs[2], "--run-dir", folder, *(("--set", f"training.warm_start={source}") if source else ()))
        assert headrace("data", "prepare", *words)[0] == 0
        return headrace("train", "retrieval", *words)

    return run


@pytest.fixture
def begun(monkeypatch):
    """What a training holds when it begins: nothing is trained, and checkpoints say so."""
    import trainer.loop

    def no_steps(*_):
        return lambda feeds, count, first_step: {"loss": 0.0}

    monkeypatch.setattr(trainer.loop, "steps_of", no_steps)


def _tables(folder):
    saved = Saved.read(find_checkpoint(folder).tables)
    return {name: opened(saved, name) for name in saved.tables}


@pytest.mark.usefixtures("begun")
def test_rows_come_by_raw_id_and_are_counted(headrace, train, jobs, tmp_path):
    old, prepared, cold = jobs[1], tmp_path / "warm", tmp_path / "cold"
    code, said = train(prepared, old)
    assert code == 0, said
    assert train(cold)[0] == 0
    facts = json.loads((prepared / "stages.json").read_text())["retrieval"]["facts"]["warm_start"]
    best = json.loads((old / "stages.json").read_text())["retrieval"]["facts"]["best_step"]
    assert facts["from"].endswith(f"step-{best:08d}")
    there = _tables(facts["from"])
    here, initial = (_tables(run / "checkpoints" / "retrieval") for run in (prepared, cold))
    raw_here, raw_there = (vocabularies_of(run).values for run in (prepared, old))
    for name in TABLES:
        old_raw, new_raw = raw_there[name].to_pylist(), raw_here[name].to_pylist()
        place = {raw: number for number, raw in enumerate(old_raw, 1)}
        told = facts["tables"][name]
        kept = 1 + sum(raw in place for raw in new_raw)
        assert (told["kept"], told["new"]) == (kept, len(new_raw) + 1 - kept)
        assert told["dropped"] == len(old_raw) + 1 - kept
        assert told["kept"] > 1
        assert f"table '{name}': ids {kept:,} kept, {told['new']:,} new, {told['dropped']:,} dropped" in said
        for variable in ("rows", "accumulator"):
            every = np.arange(len(new_raw) + 1)
            found, before = (tables[name].read(variable, every) for tables in (here, initial))
            other = there[name].read(variable, np.arange(len(old_raw) + 1))
            for number, raw in enumerate([None, *new_raw]):
                wanted = before[number] if number and raw not in place else other[place.get(raw, 0)]
                assert np.array_equal(found[number], wanted)
    assert facts["dense"]["kept"] > 5
    assert facts["dense"]["new"] == 0
    code, said = headrace("checkpoint", "diff", prepared / "checkpoints" / "retrieval", facts["from"], "--json")
    dense = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]["dense"]
    weights = [name for name in dense if name.startswith("model/") and "gradient_trap" not in name]
    assert len(weights) == facts["dense"]["kept"]
    assert all(dense[name]["same"] for name in weights)


@pytest.mark.long
def test_two_workers_begin_as_one_does(jobs, tools, tmp_path):
    """And end with the same tables (law 1)."""
    warm = (jobs[2], "--set", f"training.warm_start={jobs[1]}", "--run-dir")
    for run, more in (("one", ()), ("two", ("--workers", 2))):
        for words in (("data", "prepare", *warm, tmp_path / run), ("train", "retrieval", *warm, tmp_path / run, *more)):
            done = tools.command(*words)
            assert done.returncode == 0, done.stderr
    facts = [json.loads((tmp_path / run / "stages.json").read_text())["retrieval"]["facts"] for run in ("one", "two")]
    assert facts[0] == facts[1]
    one, two = (_tables(tmp_path / run / "checkpoints" / "retrieval") for run in ("one", "two"))
    for name in TABLES:
        every = np.arange(one[name].count)
        np.testing.assert_allclose(two[name].read("rows", every), one[name].read("rows", every), rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("begun")
def test_a_stage_that_the_other_has_not_begins_anew(headrace, jobs, tmp_path):
    words = (jobs[2], "--run-dir", tmp_path / "run", "--set", f"training.warm_start={jobs[1]}")
    assert headrace("data", "prepare", *words)[0] == 0
    code, said = headrace("train", "ranking", *words)
    assert code == 0, said
    assert f"ranking: begins anew: {jobs[1]} has no checkpoint of this stage" in said


@pytest.mark.usefixtures("begun")
def test_it_is_part_of_what_the_training_is_made_from(train, jobs, tmp_path):
    source = shutil.copytree(jobs[1], tmp_path / "source")
    assert train(tmp_path / "run", source)[0] == 0
    code, said = train(tmp_path / "run", source)
    assert code == 0
    assert "retrieval: done before, skipped" in said
    record = json.loads((source / "stages.json").read_text())  # now another checkpoint is the best
    steps = {int(path.name[5:]) for path in (source / "checkpoints" / "retrieval").glob("step-*")}
    record["retrieval"]["facts"]["best_step"] = min(steps - {record["retrieval"]["facts"]["best_step"]})
    (source / "stages.json").write_text(json.dumps(record))
    code, said = train(tmp_path / "run", source)
    assert code == 0
    assert "what it was trained on has changed: training anew" in said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "training.warm_start: nowhere: no such folder"),
        ("empty", "training.warm_start: empty: no checkpoint here"),
    ],
)
def test_what_is_no_checkpoint_is_told(train, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, said = train(tmp_path / "run", source)
    assert code == 2
    assert message in said


def test_a_checkpoint_without_its_run_is_refused(train, jobs, tmp_path):
    alone = shutil.copytree(find_checkpoint(jobs[1]).path, tmp_path / "alone")
    code, said = train(tmp_path / "run", alone)
    assert code == 2
    assert "lies in no run directory" in said


def test_the_export_of_a_run_has_its_vocabulary(headrace, jobs, tmp_path):
    import pandas as pd

    assert headrace("checkpoint", "export", jobs[1], tmp_path / "out")[0] == 0
    readme = json.loads((tmp_path / "out" / "README.json").read_text())
    folder = tmp_path / "out" / readme["tables"]["user_id"]["folder"]
    vocabulary = pd.read_parquet(folder / "vocabulary.parquet")
    assert vocabulary["raw_id"].tolist() == vocabularies_of(jobs[1]).values["user_id"].to_pylist()
    rows = pd.read_parquet(folder / "rows.parquet")
    assert len(rows.merge(vocabulary, on="id")) == len(vocabulary)


def test_values_of_two_types_meet_as_text():
    import pyarrow as pa

    there, here = mapped_ids(pa.array(["7", "x", "5"]), pa.array([5, 6, 7]))
    assert (there.tolist(), here.tolist()) == ([0, 3, 1], [0, 1, 3])
