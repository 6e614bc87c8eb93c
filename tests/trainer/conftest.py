"""A small world, and jobs over it run as users run them: as commands."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from inputs.simulate.config import SimulateConfig
from inputs.simulate.world import simulate
from trainer.main import app, exit_code_of

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "trainer.main"]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """FOLDER = made_once(NAME, make): `make(FOLDER)` is called by the first of the processes that test side by side."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / f"once-{name}"
        with (shared / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = Path(tempfile.mkdtemp(dir=shared))
                make(partial)
                partial.rename(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def world(made_once) -> Path:
    """The dataset folder of a small simulated world. Not to be written to."""
    config = SimulateConfig(users=400, items=600, days=10, impressions=30_000, seed=1)
    return made_once("world", lambda folder: simulate(config, folder / "data")) / "data"


@pytest.fixture(scope="session")
def job_file(world, made_once) -> Path:
    """A job over the small world that trains in seconds and checkpoints often."""
    job = {
        "name": "small",
        "inputs": {"format": "simulated", "path": str(world)},
        "retrieval": {"epochs": 2, "batch_size": 128, "patience": 5, "embedding_dim": 8, "dim": 16, "units": [16]},
        "ranking": {"epochs": 1, "batch_size": 512, "dim": 8, "expert_units": [16], "head_units": [8]},
        "index": {"brute_force_below": 100},
        "evaluation": {"max_queries": 200, "bootstrap_samples": 100},
        "training": {"steps_per_call": 3, "checkpoint_every": 6},
    }
    return made_once("job", lambda folder: (folder / "small.yaml").write_text(yaml.safe_dump(job))) / "small.yaml"


def command(*words: object, **options) -> subprocess.CompletedProcess:
    """`headrace WORDS`, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, **options
    )


def start(*words: object, **options) -> subprocess.Popen:
    """`headrace WORDS`, running."""
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.STDOUT,
        text=True,
        **{"stdout": subprocess.PIPE, **options},
    )


def kill_when(process: subprocess.Popen, happened, how: int = signal.SIGKILL) -> None:
    """Sends `how` to the process as soon as `happened()`; fails if it ends before."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
    os.kill(process.pid, how)


def process_of(rank: int, parent: int) -> int:
    """The pid of a rank that `parent` started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat, environment = (entry / "stat").read_text(), (entry / "environ").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        state, its_parent = stat.rpartition(")")[2].split()[:2]
        if int(its_parent) == parent and state != "Z" and f"HEADRACE_RANK={rank}\0".encode() in environment:
            return int(entry.name)
    raise LookupError(f"no rank {rank}")


def variables_of(run: Path, stage: str) -> tuple[str, dict[str, np.ndarray]]:
    """The last checkpoint's name, and every variable in it: tables, slot variables, dense weights, the optimizer's."""
    from foundation.tf import tf

    last = sorted((run / "checkpoints" / stage).glob("step-*"))[-1]
    reader = tf.train.load_checkpoint(str(last / "variables"))
    dense = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name}
    tables = {
        str(path.relative_to(last)): np.frombuffer(path.read_bytes(), np.uint8)
        for path in (last / "tables").rglob("*")
        if path.is_file()
    }
    return last.name, {**dense, **tables}


def curves_of(run: Path, stage: str) -> list[dict]:
    lines = (run / "curves.jsonl").read_text().splitlines()
    return [point for point in map(json.loads, lines) if point["stage"] == stage]


def assert_same_bits(run: Path, other: Path, stage: str) -> None:
    """What two runs trained."""
    (name, ours), (its_name, theirs) = (variables_of(at, stage) for at in (run, other))
    assert name == its_name
    assert ours.keys() == theirs.keys()
    assert [key for key in theirs if not np.array_equal(ours[key], theirs[key])] == []
    assert curves_of(run, stage) == curves_of(other, stage)


@pytest.fixture(scope="session")
def tools():
    """The helpers above (test files are imported on their own, not as a package)."""
    from types import SimpleNamespace

    return SimpleNamespace(
        command=command,
        start=start,
        kill_when=kill_when,
        process_of=process_of,
        variables_of=variables_of,
        curves_of=curves_of,
        assert_same_bits=assert_same_bits,
    )


@pytest.fixture(scope="session")
def finished_run(job_file, made_once) -> Path:
    """The run directory of the small job, every stage done. Tests that change it copy it first."""

    def make(folder: Path) -> None:
        done = command("run", job_file, "--run-dir", folder / "run")
        assert done.returncode == 0, done.stderr

    return made_once("finished", make) / "run"


@pytest.fixture(scope="session")
def two_workers_run(job_file, made_once) -> Path:
    """The same of two workers; what was said is in said.txt beside it."""

    def make(folder: Path) -> None:
        done = command("run", job_file, "--run-dir", folder / "run", "--workers", 2)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "said.txt").write_text(done.stderr)

    return made_once("two-workers", make) / "run"


@pytest.fixture(scope="session")
def prepared(finished_run, made_once) -> Path:
    """A run directory of the small job with the data stage alone done, to be copied."""

    def make(folder: Path) -> None:
        others = shutil.ignore_patterns(
            "checkpoints", "tensorboard", "timelines", "export", "index", "curves.jsonl", "metrics.json", "report.html"
        )
        run = shutil.copytree(finished_run, folder / "run", ignore=others)
        record = json.loads((run / "stages.json").read_text())
        (run / "stages.json").write_text(json.dumps({"data": record["data"]}))

    return made_once("prepared", make) / "run"


@pytest.fixture
def headrace(capfd):
    """Runs `headrace WORDS` in this process; returns (exit code, what was printed)."""

    def run(*words: object) -> tuple[int, str]:
        code = exit_code_of(lambda: app([str(word) for word in words], standalone_mode=False))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out + captured.err

    return run


@pytest.fixture
def own_log(job_file, world, tmp_path):
    """The small job over a copy of the world that may be changed; (job file, log folder)."""
    log = shutil.copytree(world, tmp_path / "log")
    document = yaml.safe_load(job_file.read_text())
    document["inputs"]["path"] = str(log)
    document["retrieval"]["epochs"] = 1
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(document))
    return job, log
