"""Whatever ends a process of a run, the run ends with the same bits; or says why it does not go on."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

FAULTS = Path(__file__).parent / "faults"
RETRIEVAL = ("train", "retrieval")


@pytest.fixture
def faulty():
    """faulty(LOST_SLOT=..., ...): the environment of processes with these faults (faults/sitecustomize.py)."""

    def environment(**faults: object) -> dict[str, str]:
        asked = {f"FAULT_{name}": str(value) for name, value in faults.items()}
        return {**os.environ, "PYTHONPATH": str(FAULTS), **asked}

    return environment


@pytest.fixture
def run(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "run")


def _steps(run):
    """Of the committed checkpoints, rising."""
    return sorted(int(path.name[5:]) for path in (run / "checkpoints" / "retrieval").glob("step-*"))


def _array(folder, array):
    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / array['path']}/"}}
    return ts.open(store).result().read().result()


def _tables(run):
    """Every static table and slot by id in the last checkpoint, as docs/checkpoint-format.md lays them out."""
    folder = run / "checkpoints" / "retrieval" / f"step-{_steps(run)[-1]:08d}" / "tables"
    contents = [json.loads(path.read_text())["content"] for path in sorted(folder.glob("rank-*/manifest.json"))]
    sizes = {table["name"]: table["vocabulary_size"] for table in contents[0]["tables"]}
    tables = {}
    for part in (part for content in contents for part in content["parts"]):
        size = sizes[part["table"]]
        assert not part["hot"]
        held = np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(part["buckets"]), np.uint8)))
        for name, array in part["arrays"].items():
            values = _array(folder, array)
            ids = held[:, np.newaxis] + 1024 * np.arange(values.shape[1])
            columns = slice(*part["columns"]) if values.ndim == 3 else slice(0, 1)
            whole = tables.setdefault((part["table"], name), np.full((size, *values.shape[2:]), np.nan))
            inside = ids < size
            if values.ndim == 3 and whole.shape[1] < part["columns"][1]:
                whole = tables[part["table"], name] = np.pad(
                    whole, ((0, 0), (0, part["columns"][1] - whole.shape[1])), constant_values=np.nan
                )
            if values.ndim == 3:
                whole[ids[inside], columns] = values[inside]
            else:
                whole[ids[inside]] = values[inside]
    return tables


def _assert_same_tables(run, other):
    ours, theirs = _tables(run), _tables(other)
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        assert not np.isnan(values).any()
        np.testing.assert_allclose(ours[key], values, rtol=1e-5, atol=1e-6, err_msg=str(key))


def test_a_killed_rank_is_started_again_and_the_bits_are_the_same(run, two_workers_run, job_file, tools):
    process = tools.start(*RETRIEVAL, job_file, "--run-dir", run, "--workers", 2)
    tools.kill_when(process, lambda: _steps(run), how=0)
    os.kill(tools.process_of(1, process.pid), signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "rank 1 of 2 was killed by SIGKILL" in said
    assert "Restart 1 of 3 in 1 s, from step " in said
    assert "retrieval: going on from step" in said
    tools.assert_same_bits(run, two_workers_run, "retrieval")
    assert not list(run.rglob("*.partial"))


@pytest.mark.long
def test_the_step_that_kills_twice_is_told(run, job_file, tools, faulty, tmp_path):
    (always := tmp_path / "always").touch()
    process = tools.start(*RETRIEVAL, job_file, "--run-dir", run, "--workers", 2, env=faulty(AT_STEP=f"1:9:{always}"))
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2, said
    assert said.count("Restart ") == 1, said
    error = said.partition("error: ")[2]
    assert error.startswith("rank 1 of 2 was killed by SIGKILL at step 9.")
    assert "It ends at step 9 of retrieval, twice in a row, from step 6 of retrieval: not started again." in error
    assert "Traceback" not in said


@pytest.mark.long
def test_sigterm_checkpoints_and_the_same_command_goes_on(run, two_workers_run, job_file, tools):
    words = (*RETRIEVAL, job_file, "--run-dir", run, "--workers", 2)
    process = tools.start(*words)
    tools.kill_when(process, lambda: _steps(run), how=signal.SIGTERM)  # to the supervisor
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75, said
    [left] = _steps(run)[-1:]
    assert f"retrieval: SIGTERM: checkpointed at step {left}. The same command goes on from here" in said
    process = tools.start(*words)
    tools.kill_when(process, lambda: _steps(run)[-1] > left, how=0)
    os.kill(tools.process_of(1, process.pid), signal.SIGTERM)  # to a rank
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75, said
    assert f"retrieval: going on from step {left}" in said
    done = tools.command(*words)
    assert done.returncode == 0, done.stderr
    tools.assert_same_bits(run, two_workers_run, "retrieval")


def test_a_worker_that_never_comes_back_is_done_without(run, two_workers_run, job_file, tools, faulty, tmp_path):
    (gone := tmp_path / "gone").touch()
    words = (*RETRIEVAL, job_file, "--run-dir", run, "--workers", 2, "--min-workers", 1)
    process = tools.start(*words, env=faulty(LOST_SLOT=f"1:{gone}"))
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "it does not come back. Going on with 1 worker of 2, from the end of data." in said
    _assert_same_tables(run, two_workers_run)


@pytest.mark.long
def test_after_a_worker_was_lost_the_run_grows_again(run, two_workers_run, job_file, tools, faulty, tmp_path):
    (gone := tmp_path / "gone").touch()
    words = (*RETRIEVAL, job_file, "--run-dir", run, "--min-workers", 1)
    process = tools.start(*words, "--workers", 2, env=faulty(LOST_SLOT=f"1:{gone}"))
    tools.kill_when(process, lambda: _steps(run), how=0)
    gone.unlink()
    os.kill(tools.process_of(0, process.pid), signal.SIGKILL)
    tools.kill_when(process, lambda: _runs_two(tools, process) and _steps(run)[-1] >= 12, how=signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75, said
    assert "with 2 workers if all come back." in said
    done = tools.command(*words, "--workers", 4)
    assert done.returncode == 0, done.stderr
    assert "retrieval: going on from step" in done.stderr
    _assert_same_tables(run, two_workers_run)


def _runs_two(tools, process):
    try:
        return bool(tools.process_of(1, process.pid))
    except LookupError:
        return False


@pytest.mark.long
def test_a_single_process_is_supervised_if_asked(run, finished_run, job_file, tools):
    process = tools.start(*RETRIEVAL, job_file, "--run-dir", run, "--restarts", 1)
    tools.kill_when(process, lambda: _steps(run), how=0)
    os.kill(tools.process_of(0, process.pid), signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    tools.assert_same_bits(run, finished_run, "retrieval")


@pytest.mark.long
def test_restarts_used_up(run, job_file, tools, faulty, tmp_path):
    (always := tmp_path / "always").touch()
    environment = faulty(AT_STEP=f"1:9:{always}")
    process = tools.start(*RETRIEVAL, job_file, "--run-dir", run, "--workers", 2, "--restarts", 0, env=environment)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2, said
    assert "Restart" not in said
    assert "error: rank 1 of 2 was killed by SIGKILL at step 9." in said


def test_sigterm_to_a_single_process(run, finished_run, job_file, tools, headrace, monkeypatch):
    from inputs.batches import Batches

    def ends_at_ten(self, epoch, k, *where, then=Batches.batch):
        if (epoch, k) == (0, 10):
            os.kill(os.getpid(), signal.SIGTERM)
        return then(self, epoch, k, *where)

    with monkeypatch.context() as patched:
        patched.setattr(Batches, "batch", ends_at_ten)
        with pytest.raises(SystemExit) as left:
            headrace(*RETRIEVAL, job_file, "--run-dir", run)
    assert left.value.code == 75
    assert 3 <= _steps(run)[-1] <= 15
    code, said = headrace(*RETRIEVAL, job_file, "--run-dir", run)
    assert code == 0, said
    assert "retrieval: going on from step" in said
    tools.assert_same_bits(run, finished_run, "retrieval")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", 2, "--min-workers", 3), "min_workers: found 3, more than training.workers, which is 2"),
        (("--workers", 2, "--strategy", "mirrored", "--min-workers", 1), "of strategy 'mirrored', which goes on with"),
        (("--workers", 2, "--set", "training.plan=plan.json", "--min-workers", 1), "which is for one number of them"),
        (("--set", "training.on_nonfinite=ignore"), "training.on_nonfinite: Input should be 'stop' or 'skip'"),
        (("--set", "training.restarts=-1"), "training.restarts: Input should be greater than or equal to 0"),
        (("--min-workers", 0), "--min-workers"),
    ],
)
def test_what_cannot_be_survived_is_refused(words, message, job_file, headrace, tmp_path):
    code, said = headrace("run", job_file, "--run-dir", tmp_path / "run", *words)
    assert code == 2
    assert message in said
