"""`headrace index vectors`: the model's own vectors, whoever computes them and however often it is killed; and what a
user gets wrong with it: one message, exit code 2, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from embeddings.sharding import ShardingPlan, TableSharding
from foundation.errors import UserError
from inputs.entities import Entities
from inputs.features import FeatureSpace
from retrieval.index import ShardedIndex
from retrieval.index.recall import exact_search
from retrieval.index.sources.source import open_source
from trainer import candidate_vectors
from trainer.candidate_vectors import POSITIONS, RAW, vectors_checkpoint, write_candidate_vectors, write_piece
from trainer.checkpoint_copies import reshard_checkpoint

ROOT = Path(__file__).parents[2]
PIECE = 250  # of 600 items


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(candidate_vectors, "ROWS_PER_PIECE", PIECE)


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(finished_run, tmp_path / "run")


class FakeRay:
    """As much of Ray as is asked for, in this process. most: tasks that it does before it fails."""

    def __init__(self, most=1_000):
        self.left = most

    def init(self, address, **options):
        assert address == "auto"

    def shutdown(self):
        pass

    def remote(self, function):
        fake = self

        class Remote:
            @staticmethod
            def remote(module, task):
                fake.left -= 1
                if fake.left < 0:
                    raise KeyboardInterrupt
                return (task["makes"], json.dumps(function(module, task)))

        return Remote

    @staticmethod
    def wait(references, num_returns):
        return references[:1], references[1:]

    @staticmethod
    def get(reference):
        return json.loads(reference[1])


def assert_the_models(out, run):
    """OUT holds, by raw id, what the job's own index stage computed in one process."""
    wanted = np.load(run / "candidates.npy")
    table = pq.read_table(out)
    vectors = np.stack(table["vector"].to_numpy())
    assert vectors.dtype == np.float32
    positions = FeatureSpace.load(run / "space").items.position_of(table["raw_id"])
    np.testing.assert_array_equal(np.sort(positions), np.arange(len(wanted)))
    np.testing.assert_allclose(vectors, wanted[positions], rtol=1e-6, atol=1e-6)


def test_two_workers_compute_what_one_process_does_and_an_index_is_built_of_it(headrace, finished_run, tmp_path):
    out, index = tmp_path / "out", tmp_path / "index"
    code, said = headrace("index", "vectors", finished_run, out, "--workers", 2)
    assert code == 0, said
    assert "600 vectors of 16" in said
    assert sorted(entry.name for entry in out.iterdir()) == [
        "_vectors.json",
        *(f"part-0000{number}.parquet" for number in range(3)),
    ]
    assert_the_models(out, finished_run)
    before = (out / "_vectors.json").stat().st_mtime_ns
    code, said = headrace("index", "vectors", finished_run, out)
    assert (code, "written already" in said) == (0, True)
    assert (out / "_vectors.json").stat().st_mtime_ns == before

    code, said = headrace("index", "build", out, index)
    assert code == 0, said
    source = open_source(out)
    ids, vectors = source.ids(0, 600), np.vstack(list(source.blocks(0, 600)))
    np.testing.assert_array_equal(np.sort(ids), np.sort(FeatureSpace.load(finished_run / "space").items.ids))
    wanted, _ = exact_search(vectors, vectors[:20], 5)
    np.testing.assert_array_equal(ShardedIndex.load(index).search(vectors[:20], 5)[0], ids[wanted])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index", "out"]


def test_a_cluster_computes_the_same_from_what_several_ranks_saved(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    best = vectors_checkpoint(run)
    plan = {"plan": _row_wise(best, 3).document(), "prediction": {}}
    (tmp_path / "plan.json").write_text(json.dumps({"retrieval": plan}))
    reshard_checkpoint(best, tmp_path / "of_three", 3, tmp_path / "plan.json", None, None)
    shutil.rmtree(best.path)
    (tmp_path / "of_three").rename(best.path)
    assert len(list(best.tables.glob("rank-*"))) == 3
    write_candidate_vectors(run, tmp_path / "out", 2, ray="auto")
    assert_the_models(tmp_path / "out", run)


def _row_wise(checkpoint, ranks):
    from embeddings.checkpoints.manifest import Saved

    tables = Saved.read(checkpoint.tables).tables
    return ShardingPlan(ranks, {name: TableSharding(name, "row_wise", tuple(range(ranks))) for name in tables})


def test_what_was_interrupted_goes_on_from_the_pieces_that_are_done(finished_run, tmp_path, monkeypatch, capsys):
    out, work = tmp_path / "out", tmp_path / ".out.building"
    monkeypatch.setitem(sys.modules, "ray", FakeRay(most=2))
    with pytest.raises(KeyboardInterrupt):
        write_candidate_vectors(finished_run, out, 1, ray="auto")
    assert not out.exists()
    first, second = (work / f"part-0000{number}.parquet" for number in range(2))
    before = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:-7])  # what a failing disk may leave
    monkeypatch.setitem(sys.modules, "ray", FakeRay(most=2))
    write_candidate_vectors(finished_run, out, 1, ray="auto")
    assert f"{second}: made again" in capsys.readouterr().err
    assert (out / first.name).stat().st_mtime_ns == before
    assert_the_models(out, finished_run)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_one_checkpoint_may_be_named_and_another_is_not_gone_on_with(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    steps = sorted((run / "checkpoints" / "retrieval").glob("step-*"))
    assert len(steps) > 1
    out = tmp_path / "out"
    first = write_candidate_vectors(steps[0], out, ray="auto")
    assert first.step == int(steps[0].name[5:])
    with pytest.raises(UserError, match=rf"made from something else .step: {first.step}, now"):
        write_candidate_vectors(steps[-1], out, ray="auto")
    (out / "part-00001.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"part-00001.parquet: this part of the vectors is missing or damaged"):
        write_candidate_vectors(steps[0], out, ray="auto")


def test_mistakes_are_told_in_a_message_each(headrace, run, tmp_path):
    out, something = tmp_path / "out", tmp_path / "something"
    something.mkdir()
    (something / "mine.txt").write_text("mine")
    ranking = next((run / "checkpoints" / "ranking").glob("step-*"))
    elsewhere = shutil.copytree(vectors_checkpoint(run).path, tmp_path / "moved")
    untrained = shutil.copytree(run, tmp_path / "untrained")
    (untrained / "stages.json").write_text(json.dumps({"data": json.loads((run / "stages.json").read_text())["data"]}))
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    strange = shutil.copytree(run, tmp_path / "strange")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (strange / "config.yaml").write_text(yaml.safe_dump({**config, "retrival": {}}))
    damaged = shutil.copytree(run, tmp_path / "damaged")
    variables = vectors_checkpoint(damaged).path / "variables.index"
    variables.write_bytes(variables.read_bytes()[:-5])
    retrained = shutil.copytree(run, tmp_path / "retrained")
    stages = json.loads((run / "stages.json").read_text())
    stages["retrieval"]["made_from"] = "another"
    (retrained / "stages.json").write_text(json.dumps(stages))
    for words, message in (
        ((tmp_path / "none", out), "no such folder"),
        ((something, out), "no checkpoint here"),
        ((empty, out), "no checkpoint here of retrieval"),
        ((ranking, out), "a checkpoint of ranking, whose model gives no vectors"),
        ((elsewhere, out), "it lies in no run directory"),
        ((untrained, out), "its retrieval is not trained to its end"),
        ((strange, out), "retrival: unknown key; did you mean 'retrieval'?"),
        ((damaged, out), "variables.index: this checkpoint file is"),
        ((retrained, out), "trained from something else than what"),
        ((run, something), "this is there already, and no vectors of candidates"),
        ((run, out, "--workers", 0), "--workers"),
        ((run,), "OUT"),
    ):
        code, said = headrace("index", "vectors", *words)
        assert code == 2, words
        assert message in said.replace("\n", " "), (words, said)
        assert not out.exists()
        assert not list(tmp_path.glob(".*"))
    assert (something / "mine.txt").read_text() == "mine"


def test_a_vector_that_is_not_finite_names_its_item(run, tmp_path, monkeypatch):
    from retrieval.candidates import SavedCandidates

    real = SavedCandidates.vectors

    def vectors(self, start, stop):
        for block in real(self, start, stop):
            block = block.copy()
            block[3, 1] = np.nan
            yield block

    monkeypatch.setattr(SavedCandidates, "vectors", vectors)
    makes = tmp_path / "part.parquet"
    with pytest.raises(UserError, match=r"the vector of item \d+ is not finite"):
        write_piece({"checkpoint": str(vectors_checkpoint(run).path), "start": 0, "stop": 9, "makes": str(makes)})
    assert list(tmp_path.iterdir()) == [run]


def test_items_are_known_by_their_own_ids_where_these_can_be_an_indexes():
    def of(values, kind):
        return candidate_vectors._index_ids(Entities(pa.table({"item_id": pa.array(values, kind)}), "item_id", 0))

    assert of([5, 0], pa.int64())[0] == RAW
    for values, kind in (([5, -1], pa.int64()), (["a", "b"], pa.string())):
        assert of(values, kind) == (POSITIONS, pa.array([0, 1]))


PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from trainer import candidate_vectors, main
candidate_vectors.ROWS_PER_PIECE = 20
sys.argv = ["headrace", "index", "vectors", *sys.argv[1:], "--workers", "2"]
main.main()
"""


def _children(pid):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[1]) == pid and stat[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_one_leaves_no_process_and_resumes(finished_run, tmp_path, tools, how):
    out, work = tmp_path / "out", tmp_path / ".out.building"
    words = [sys.executable, "-c", PROGRAM, str(finished_run), str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tools.kill_when(process, (work / "part-00004.parquet").exists, signal.SIGSTOP)
    workers = _children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, how)
    os.kill(process.pid, signal.SIGCONT)
    said = process.communicate()[0]
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)
    assert not out.exists()
    before = {file: file.stat().st_mtime_ns for file in work.glob("part-*.parquet")}
    assert 0 < len(before) < 30  # the other worker may be behind
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on with what is in" in again.stderr
    assert {file: (out / file.name).stat().st_mtime_ns for file in before} == before
    assert len(list(out.glob("part-*"))) == 30
    assert_the_models(out, finished_run)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.long
def test_of_what_two_ranks_trained_row_wise(job_file, finished_run, tmp_path, tools):
    plan = {"plan": _row_wise(vectors_checkpoint(finished_run), 2).document(), "prediction": {}}
    (tmp_path / "plan.json").write_text(json.dumps({"retrieval": plan}))
    run = tmp_path / "run"
    two = ("--workers", 2, "--strategy", "multi_worker", "--set", f"training.plan={tmp_path / 'plan.json'}")
    for words in (
        ("data", "prepare", job_file, "--run-dir", run),
        ("train", "retrieval", job_file, "--run-dir", run, *two),
        ("index", "build", job_file, "--run-dir", run, *two[4:]),
    ):
        done = tools.command(*words)
        assert done.returncode == 0, done.stderr
    assert len(list(vectors_checkpoint(run).tables.glob("rank-*"))) == 2
    for workers in (1, 2):
        done = tools.command("index", "vectors", run, tmp_path / f"by_{workers}", "--workers", workers)
        assert done.returncode == 0, done.stderr
        assert_the_models(tmp_path / f"by_{workers}", run)
