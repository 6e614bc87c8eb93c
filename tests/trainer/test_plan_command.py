"""`headrace plan`: what it prints and writes, and what it says of a user's mistakes."""

import json
from pathlib import Path

import pytest
import yaml

from embeddings.planner import load_topology, ready_topologies, save_topology
from embeddings.planner.calibrate import Costs, machine_name, machine_topology
from embeddings.sharding import ShardingPlan
from trainer import calibration

TABLES = {
    "batch_size": 1024,
    "dense_mlp": [32, 1],
    "tables": [
        {"name": "video", "rows": 1_000_000, "dim": 16, "pooling_factor": 5, "zipf_alpha": 1.05},
        {"name": "topic", "rows": 10, "dim": 8},
    ],
}


@pytest.fixture
def tables(tmp_path):
    """A tables file."""
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump(TABLES))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _machine(ranks=2):
    return machine_topology(ranks, 1e10, 5e10, Costs(4e-6, 2e-8, 1e-8, 2e-10, 2e-10, 1e-9, 3e-11, 1e-3, 2e-9))


@pytest.mark.parametrize(
    ("words", "chosen_by"),
    [([], "thresholds"), (["--cost-model"], "greedy"), (["--proposer", "dynamic"], "dynamic")],
)
def test_tables_are_planned_printed_and_written(headrace, tables, tmp_path, words, chosen_by):
    written = tmp_path / "plan.json"
    code, said = headrace("plan", "--tables", tables, "--topology", "dgx-a100", "--simulate", "--json", written, *words)
    assert code == 0, said
    for told in ("video", "topic", "A100-SXM4-80GB", "predicted step:", "compute", "memory", "wire", "gradients"):
        assert told in said
    document = json.loads(written.read_text())["tables"]
    assert document["chosen_by"] == chosen_by
    plan = ShardingPlan.from_document(document["plan"])
    assert plan.ranks == 8
    assert set(plan.tables) == {"video", "topic"}
    prediction = document["prediction"]
    parts = (prediction[f"{part}_seconds"] for part in ("compute", "memory", "wire"))
    assert sum(parts) == pytest.approx(prediction["step_seconds"])


def test_hosts_devices_kinds_and_wire_are_the_users(headrace, tables, tmp_path):
    written = tmp_path / "plan.json"
    words = ("--hosts", 2, "--devices-per-host", 3, "--kinds", "row_wise,data_parallel", "--wire", "bfloat16")
    code, said = headrace("plan", "--tables", tables, "--topology", "h100-8", "--simulate", "--json", written, *words)
    assert code == 0, said
    document = json.loads(written.read_text())["tables"]
    assert (document["hosts"], document["devices_per_host"], document["wire"]) == (2, 3, "bfloat16")
    assert {table["kind"] for table in document["plan"]["tables"]} <= {"row_wise", "data_parallel"}


def test_a_job_is_planned_from_its_prepared_data(headrace, job_file, tmp_path):
    run, written = tmp_path / "run", tmp_path / "plan.json"
    words = ("plan", job_file, "--run-dir", run, "--topology", "dgx-a100", "--simulate", "--json", written)
    code, said = headrace(*words)
    assert code == 2
    assert "the job's data is not prepared" in said
    assert f"headrace data prepare {job_file}" in said
    assert not run.exists()
    assert headrace("data", "prepare", job_file, "--run-dir", run)[0] == 0
    code, said = headrace(*words)
    assert code == 0, said
    document = json.loads(written.read_text())
    assert set(document) == {"retrieval", "ranking"}
    tables = {table["table"] for table in document["retrieval"]["plan"]["tables"]}
    assert {"user_id", "item_id", "item_topic"} <= tables
    assert document["retrieval"]["batch_size"] == 128


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology", "dgx-a100", "--simulate"], "which tables?"),
        (["--tables", "TABLES"], "which cluster?"),
        (["--tables", "TABLES", "--topology", "dgx-a100"], "Add --simulate"),
        (["--tables", "TABLES", "--topology", "dgx"], "no ready topology of that name"),
        (["--tables", "nowhere.yaml", "--topology", "dgx-a100", "--simulate"], "nowhere.yaml: cannot be read"),
        (
            ["--tables", "TABLES", "--topology", "dgx-a100", "--simulate", "--kinds", "rowwise"],
            "did you mean 'row_wise'",
        ),
        (["--tables", "TABLES", "--topology", "dgx-a100", "--simulate", "--proposer", "best"], "--proposer: no 'best'"),
        (["--tables", "TABLES", "--topology", "dgx-a100", "--simulate", "--wire", "int8"], "--wire: no 'int8'"),
        (["--tables", "TABLES", "--topology", "dgx-a100", "--simulate", "--exchange", "x"], "--exchange: no 'x'"),
        (["--tables", "TABLES", "--topology", "dgx-a100", "--simulate", "--hosts", "0"], "--hosts"),
    ],
)
def test_a_mistake_is_told_in_words(headrace, here, tables, words, message):
    code, said = headrace("plan", *(tables if word == "TABLES" else word for word in words))
    assert code == 2
    assert message in said
    assert list(here.iterdir()) == []


def test_a_topology_with_a_wrong_unit_names_file_and_key(headrace, tables, tmp_path):
    document = yaml.safe_load(ready_topologies()["dgx-a100"].read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**document, "memory_bandwidth": "2039 GB"}))
    code, said = headrace("plan", "--tables", tables, "--topology", path)
    assert code == 2
    assert f"{path}: 1 problem in the topology:\n  memory_bandwidth: 'GB' is a unit of size" in said


def test_tables_that_do_not_fit_say_by_how_much_and_write_nothing(headrace, tables, tmp_path):
    tables.write_text(yaml.safe_dump({"batch_size": 64, "tables": [{"name": "huge", "rows": 10**10, "dim": 64}]}))
    written = tmp_path / "plan.json"
    words = ("--topology", "dgx-a100", "--simulate", "--json", written)
    code, said = headrace("plan", "--tables", tables, *words)
    assert code == 2
    assert "no plan: tables and slot variables take 2.6 TB" in said
    assert "too little" in said
    assert "5 hosts like these would (--hosts 5)" in said
    assert not written.exists()
    assert headrace("plan", "--tables", tables, *words, "--hosts", 5)[0] == 0


def test_a_topology_of_ones_own_needs_no_simulation_but_anothers_does(headrace, tables, tmp_path):
    own = tmp_path / "own.yaml"
    save_topology(_machine(), own, "mine")
    assert load_topology(own).measured_on == machine_name()
    assert headrace("plan", "--tables", tables, "--topology", own)[0] == 0
    own.write_text(own.read_text().replace(machine_name(), "another, x86_64, 64 cores"))
    code, said = headrace("plan", "--tables", tables, "--topology", own)
    assert code == 2
    assert "measured on another, x86_64, 64 cores" in said
    assert headrace("plan", "--tables", tables, "--topology", own, "--simulate")[0] == 0


def test_calibration_writes_a_topology_that_is_then_the_default(headrace, here, tables, monkeypatch):
    monkeypatch.setattr(calibration, "calibrate", _machine)
    code, said = headrace("plan", "--calibrate", "--devices-per-host", 2)
    assert code == 0, said
    assert "written: this-machine.yaml" in said
    assert [entry.name for entry in here.iterdir()] == ["this-machine.yaml"]
    code, said = headrace("plan", "--tables", tables)
    assert code == 0, said
    assert "this-machine" in said


def test_calibration_wants_a_core_a_rank_and_a_yaml_file(headrace, here):
    code, said = headrace("plan", "--calibrate", "--devices-per-host", 1_000)
    assert code == 2
    assert "1000 ranks are wanted" in said
    code, said = headrace("plan", "--calibrate", "--topology", "dgx-a100")
    assert code == 2
    assert "--calibrate writes a YAML file there" in said
    assert list(here.iterdir()) == []


@pytest.mark.long
def test_this_machine_is_measured(headrace, here, tables):
    code, said = headrace("plan", "--calibrate", "--tables", tables)
    assert code == 0, said
    topology = load_topology(Path("this-machine.yaml"))
    assert topology.measured_on == machine_name()
    assert 0 < topology.memory_efficiency <= 1
    assert "predicted step:" in said
