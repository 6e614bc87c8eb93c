"""Twenty SIGKILLs, or SIGTERMs, at random moments over random ranks of one run, saving included: the bits of an
undisturbed one."""

import os
import random
import shutil
import signal
import time

import pytest
import yaml

KILLS, SEED = 20, 4
STARTING_SECONDS = 4.0  # from a restart; a rank takes longer than this to its first step


WORDS = ("train", "retrieval")
PREEMPTED, TERMINATED = 75, 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def long_job(job_file, prepared, tools, tmp_path_factory):
    """(its file, its prepared run directory): a job whose retrieval takes many steps."""
    folder = tmp_path_factory.mktemp("long-job")
    document = yaml.safe_load(job_file.read_text())
    document["training"] = {"steps_per_call": 1, "checkpoint_every": 3}
    document["retrieval"] |= {"epochs": 6, "patience": 6}
    job, run = folder / "job.yaml", folder / "run"
    job.write_text(yaml.safe_dump(document))
    shutil.copytree(prepared, run)
    (run / "stages.json").unlink()  # another job
    done = tools.command("data", "prepare", job, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    return job, run


@pytest.fixture(scope="module")
def undisturbed(long_job, tools, tmp_path_factory):
    job, prepared = long_job
    run = shutil.copytree(prepared, tmp_path_factory.mktemp("undisturbed") / "run")
    done = tools.command(*WORDS, job, "--workers", 2, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.long
def test_twenty_kills(long_job, undisturbed, tools, tmp_path):
    job, prepared = long_job
    run = shutil.copytree(prepared, tmp_path / "killed")
    with (tmp_path / "said").open("w") as said:
        process = tools.start(*WORDS, job, "--workers", 2, "--run-dir", run, "--restarts", KILLS, stdout=said)
        moments = _kill(process, run / "checkpoints" / "retrieval", tools)
        assert process.wait(timeout=300) == 0, (tmp_path / "said").read_text()
    assert sum(moments.values()) == KILLS
    assert moments["saving"] > 0, moments
    assert (tmp_path / "said").read_text().count("Restart ") == KILLS
    tools.assert_same_bits(run, undisturbed, "retrieval")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.long
def test_twenty_sigterms(long_job, undisturbed, tools, tmp_path):
    """To the command at any moment, or to one of its ranks while they train: each time it leaves, and the same command
    goes on."""
    job, prepared = long_job
    run = shutil.copytree(prepared, tmp_path / "left")
    chance, codes = random.Random(SEED), []
    for _ in range(KILLS):
        process = tools.start(*WORDS, job, "--workers", 2, "--run-dir", run)
        pids = [process.pid, *_ranks(process, tools)]
        if chance.random() < 0.25:
            pids = [process.pid]
            time.sleep(chance.uniform(0.0, STARTING_SECONDS))
        else:
            _until_more(run / "checkpoints" / "retrieval", process)
            time.sleep(chance.uniform(0.0, 0.3))
        os.kill(chance.choice(pids), signal.SIGTERM)
        said = process.communicate(timeout=300)[0]
        codes.append(process.returncode)
        assert codes[-1] in (PREEMPTED, TERMINATED), said
        assert codes[-1] == PREEMPTED or "checkpointed at step" not in said
    assert codes.count(PREEMPTED) > KILLS // 2, codes
    done = tools.command(*WORDS, job, "--workers", 2, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    tools.assert_same_bits(run, undisturbed, "retrieval")
    assert not list(tmp_path.rglob("*.partial"))


def _kill(process, checkpoints, tools):
    """Kills a random rank KILLS times: as it starts, while it saves, or some time after something more was committed.
    Two kills at one step with nothing committed between them would end the run, as they should: so no two in a row
    fall on a start. Returns how many of each there were."""
    chance = random.Random(SEED)
    counts = {"starting": 0, "saving": 0, "training": 0}
    moment = "starting"
    for _ in range(KILLS):
        moment = chance.choice(["saving", "training"] if moment == "starting" else [*counts])
        counts[moment] += 1
        pids = _ranks(process, tools)
        if moment == "starting":
            time.sleep(chance.uniform(0.0, STARTING_SECONDS))
        else:
            _until_more(checkpoints, process)
            if moment == "training":
                time.sleep(chance.uniform(0.0, 0.5))
            else:
                _until(lambda: any(checkpoints.glob(".step-*.partial")), process)
                time.sleep(chance.uniform(0.0, 0.02))
        os.kill(chance.choice(pids), signal.SIGKILL)
        _until_gone(set(pids), process, tools)
    return counts


def _ranks(process, tools, wait=True):
    """Both ranks' pids, once both live; with wait=False those that do."""
    while True:
        found = []
        for rank in (0, 1):
            try:
                found.append(tools.process_of(rank, process.pid))
            except LookupError:
                continue
        if len(found) == 2 or not wait:
            return found
        assert process.poll() is None, "it ended before it was killed often enough"
        time.sleep(0.01)


def _until_gone(pids, process, tools):
    _until(lambda: not pids & set(_ranks(process, tools, wait=False)), process)


def _until_more(checkpoints, process):
    before = _committed(checkpoints)
    _until(lambda: _committed(checkpoints) > before, process)


def _committed(checkpoints):
    return max((int(path.name[5:]) for path in checkpoints.glob("step-*")), default=-1)


def _until(happened, process):
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, "it ended before it was killed often enough"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)
