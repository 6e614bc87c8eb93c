"""`headrace checkpoint`, and what a user gets wrong with it: one message, exit code 2, nothing half-written."""

import json
import resource
import shutil

import numpy as np
import pandas as pd
import pytest

from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig, save_tables
from embeddings.dense import DenseCheckpoint
from embeddings.sharding import ShardingPlan, TableSharding
from foundation.tf import tf
from trainer.checkpoint import CheckpointStore
from trainer.world import alone

TABLES = [TableConfig("t", 2_000, 4, RowWiseAdagrad(0.1)), TableConfig("open", None, 4, RowWiseAdagrad(0.1))]


class Model(tf.Module):
    """One dense variable, a static and a dynamic table."""

    def __init__(self):
        super().__init__()
        self.x = tf.Variable([1.0, 2.0])
        self.embedding = ShardedEmbedding({table.name: FeatureConfig(table) for table in TABLES})


def _train(model, ids):
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(v) for v in model.embedding({"t": ids, "open": ids}, training=True).values()])
    tape.gradient(loss, model.embedding.trainable_variables)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run directory with two checkpoints of "retrieval", steps 1 and 2."""
    run = tmp_path_factory.mktemp("made") / "run"
    model = Model()
    store = CheckpointStore(
        run / "checkpoints" / "retrieval", DenseCheckpoint(model=model), model.embedding, alone(), keep=5
    )
    for step, ids in ((1, [[3], [5]]), (2, [[7], [11]])):
        _train(model, tf.constant(ids))
        model.x.assign_add([0.0, 0.5])
        saved = store.save(step, {"made_from": "abc", "position": {"step": step}}, best_step=None)
        store.wait()
        assert saved.path.is_dir()
    (run / "config.yaml").write_text("name: small\ninputs: {format: simulated}\n")
    return run


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def steps(run):
    return [run / "checkpoints" / "retrieval" / f"step-{step:08d}" for step in (1, 2)]


def _json(said):
    return json.loads(said[said.index("{") :])


def test_inspect_says_what_is_in_it(headrace, run, steps):
    code, said = headrace("checkpoint", "inspect", run)
    assert code == 0
    assert f"its newest checkpoint is {steps[1]}" in said
    for words in (
        "stage: retrieval",
        "step: 2",
        "ranks: 1",
        "job: small",
        "made from: abc",
        "RowWiseAdagrad",
        "model/x",
    ):
        assert words in said
    code, said = headrace("checkpoint", "inspect", steps[0], "--json")
    assert code == 0
    document = _json(said)
    assert (document["stage"], document["step"], document["ranks"]) == ("retrieval", 1, 1)
    assert document["job"]["name"] == "small"
    assert document["saved_at"] > 1e9
    static, dynamic = document["tables"]
    assert {key: static[key] for key in ("name", "rows", "dim", "optimizer", "precision", "slots", "dynamic")} == {
        "name": "t",
        "rows": 2_000,
        "dim": 4,
        "optimizer": "RowWiseAdagrad",
        "precision": "float32",
        "slots": {"accumulator": "float32"},
        "dynamic": False,
    }
    assert static["bytes"] >= 2_000 * 4 * 4
    assert (dynamic["rows"], dynamic["dynamic"], dynamic["counts"]["insertions"]) == (2, True, 2)
    assert [v for v in document["dense"] if v["name"] == "model/x"] == [
        {"name": "model/x", "shape": [2], "dtype": "float32"}
    ]


def test_tables_alone_are_inspected_and_compared_too(headrace, steps, tmp_path):
    save_tables(Model().embedding, tmp_path / "tables")
    code, said = headrace("checkpoint", "inspect", tmp_path / "tables", "--json")
    assert code == 0
    assert _json(said)["step"] is None
    assert headrace("checkpoint", "verify", tmp_path / "tables")[0] == 0
    assert headrace("checkpoint", "diff", tmp_path / "tables", steps[0])[0] == 1
    assert headrace("checkpoint", "diff", tmp_path / "tables", tmp_path / "tables")[0] == 0


def test_verify_names_every_damaged_file(headrace, steps):
    code, said = headrace("checkpoint", "verify", steps[1])
    assert code == 0
    assert "whole" in said
    (data,) = steps[1].glob("variables.data*")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    arrays = sorted(path for path in (steps[1] / "tables").rglob("*/rows/c/**/*") if path.is_file())
    arrays[0].write_bytes(arrays[0].read_bytes()[:-1])
    arrays[-1].unlink()
    state = (steps[1] / "state.json").read_text()
    code, said = headrace("checkpoint", "verify", steps[1])
    assert code == 2
    assert "3 files are not as written" in said
    for path in (data, arrays[0], arrays[-1]):
        assert str(path) in said
    (steps[1] / "state.json").write_text(state.replace('"step": 2', '"step": 3'))
    code, said = headrace("checkpoint", "verify", steps[1])
    assert code == 2
    assert "state.json: this checkpoint file is damaged: its digest is another" in said
    (steps[1] / "state.json").unlink()
    shutil.rmtree(steps[1] / "tables")
    code, said = headrace("checkpoint", "verify", steps[1])
    assert code == 2


def test_an_older_checkpoint_is_read_all_the_same(headrace, steps):
    document = json.loads((steps[0] / "state.json").read_text())["content"]
    sizes = {name: entry["bytes"] for name, entry in document["files"].items()}
    (steps[0] / "state.json").write_text(json.dumps({"state": document["state"], "sizes": sizes}))
    assert headrace("checkpoint", "verify", steps[0])[0] == 0
    code, said = headrace("checkpoint", "inspect", steps[0])
    assert code == 0
    assert "saved: when, it does not say" in said


def test_diff_counts_what_differs(headrace, steps):
    code, said = headrace("checkpoint", "diff", steps[0], steps[0], "--json")
    assert (code, _json(said)["same"]) == (0, True)
    code, said = headrace("checkpoint", "diff", steps[0], steps[1], "--json")
    assert code == 1
    document = _json(said)
    assert document["tables"]["t"]["variables"]["rows"]["differ"] == 2
    assert document["tables"]["open"]["only_there"] == 2
    assert document["dense"]["model/x"]["absolute"] == 0.5
    code, said = headrace("checkpoint", "diff", *steps)
    assert code == 1
    for words in ("t rows", "model/x", "only there"):
        assert words in said


def test_reshard_writes_the_same_for_other_ranks(headrace, steps, tmp_path):
    out = tmp_path / "three"
    assert headrace("checkpoint", "reshard", steps[1], out, "--ranks", 3)[0] == 0
    assert headrace("checkpoint", "verify", out)[0] == 0
    assert headrace("checkpoint", "diff", steps[1], out)[0] == 0
    assert len(list((out / "tables").glob("rank-*"))) == 3
    plan = ShardingPlan(
        2, {"t": TableSharding("t", "column_wise", (0, 1), (1, 3)), "open": TableSharding("open", "row_wise", (0, 1))}
    )
    (tmp_path / "plan.json").write_text(json.dumps({"retrieval": {"plan": plan.document()}}))
    words = ("--ranks", 2, "--plan", tmp_path / "plan.json", "--precision", "bfloat16")
    assert headrace("checkpoint", "reshard", steps[1], tmp_path / "two", *words)[0] == 0
    _, said = headrace("checkpoint", "inspect", tmp_path / "two", "--json")
    assert _json(said)["tables"][0]["precision"] == "bfloat16"
    assert _json(said)["tables"][0]["layout"] == "columns 1 + 3"
    model = Model()
    store = CheckpointStore(tmp_path, DenseCheckpoint(model=model), model.embedding, alone())
    out.rename(tmp_path / "step-00000002")
    assert store.restore(store.at(2))["position"] == {"step": 2}


def test_export_and_what_was_touched_since(headrace, steps, tmp_path):
    out = tmp_path / "out"
    assert headrace("checkpoint", "export", steps[1], out)[0] == 0
    readme = json.loads((out / "README.json").read_text())
    assert (readme["step"], readme["since"]) == (2, None)
    table = out / readme["tables"]["t"]["folder"]
    assert np.load(table / "ids.npy").tolist() == list(range(2_000))
    code, said = headrace("checkpoint", "export", steps[1], tmp_path / "delta", "--since", steps[0])
    assert code == 0, said
    readme = json.loads((tmp_path / "delta" / "README.json").read_text())
    for name, ids in (("t", [7, 11]), ("open", [7, 11])):
        frame = pd.read_parquet(tmp_path / "delta" / readme["tables"][name]["folder"] / "rows.parquet")
        assert frame["id"].tolist() == ids
    code, said = headrace("checkpoint", "export", steps[1], tmp_path / "no", "--since", 1)
    assert code == 2
    assert "does not say when its rows were last updated" in said
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "words", [("inspect",), ("verify",), ("diff", "."), ("reshard", "new", "--ranks", 2), ("export", "new")]
)
def test_what_is_no_checkpoint(headrace, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, message in (("nowhere", "no such folder"), ("empty", "no checkpoint here"), ("file", "not a folder")):
        code, said = headrace("checkpoint", words[0], name, *words[1:])
        assert code == 2
        assert f"{name}: {message}" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", [("reshard", "--ranks", 2), ("export",)])
def test_a_folder_that_is_there_is_not_written(headrace, steps, tmp_path, words):
    (tmp_path / "out").mkdir()
    code, said = headrace("checkpoint", words[0], steps[0], tmp_path / "out", *words[1:])
    assert code == 2
    assert "this is there already" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("words", [("reshard", "--ranks", 2), ("export",)])
def test_damage_or_a_full_disk_leaves_nothing(headrace, steps, tmp_path, words):
    out = tmp_path / "out" / "new"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        code, said = headrace("checkpoint", words[0], steps[0], out, *words[1:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "cannot be written" in said
    assert list((tmp_path / "out").iterdir()) == []
    rows = next(path for path in sorted((steps[0] / "tables").rglob("*/rows/c/**/*")) if path.is_file())
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    code, said = headrace("checkpoint", words[0], steps[0], out, *words[1:])
    assert code == 2
    assert f"{rows}: damaged" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("words", [("inspect",), ("verify",), ("reshard", "new", "--ranks", 2), ("export", "new")])
@pytest.mark.parametrize("file", ["state.json", "tables/rank-00000/manifest.json"])
def test_a_newer_version_is_refused(headrace, steps, tmp_path, monkeypatch, words, file):
    monkeypatch.chdir(tmp_path)
    path = steps[0] / file
    document = json.loads(path.read_text())
    document["content"]["format"] = 99
    path.write_text(json.dumps(document))
    code, said = headrace("checkpoint", words[0], steps[0], *words[1:])
    assert code == 2
    assert "written by a newer version (format 99" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ranks", 2, "--precision", "float33"), "--precision: no 'float33'; did you mean 'float32'?"),
        (("--ranks", 2, "--plan", "none.json"), "--plan: none.json: no such file"),
        (("--ranks", 0), "Invalid value for '--ranks'"),
        ((), "Missing option '--ranks'"),
    ],
)
def test_reshard_refuses(headrace, steps, tmp_path, words, message):
    code, said = headrace("checkpoint", "reshard", steps[0], tmp_path / "new", *words)
    assert code == 2
    assert message in said
    assert not (tmp_path / "new").exists()
