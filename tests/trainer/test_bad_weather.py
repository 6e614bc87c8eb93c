"""Faults of disks, clocks and people: refused or survived by name, and nothing lost that was committed."""

import os
import shutil
import time
from pathlib import Path

import pytest

from embeddings.checkpoints import images
from embeddings.checkpoints.arrays import Writer


@pytest.fixture(scope="module")
def killed(prepared, job_file, tools, tmp_path_factory):
    """A run directory whose training was killed, with two checkpoints; to be copied."""
    run = shutil.copytree(prepared, tmp_path_factory.mktemp("killed") / "run")
    checkpoints = run / "checkpoints" / "retrieval"
    process = tools.start("train", "retrieval", job_file, "--run-dir", run)
    tools.kill_when(process, lambda: len(list(checkpoints.glob("step-*"))) == 2)
    process.wait()
    return run


def _last(run):
    return sorted((run / "checkpoints" / "retrieval").glob("step-*"))[-1]


def _data(folder, pattern):
    return next(file for file in sorted(folder.glob(pattern)) if file.is_file() and file.stat().st_size > 64)


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _cut(file):
    file.write_bytes(file.read_bytes()[:-16])


HARMS = {"flipped": _flip, "cut": _cut, "missing": Path.unlink}
FILES = ["tables/**/rows/c/**/*", "tables/rank-00000/manifest.json", "variables.data*", "variables.index", "state.json"]


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_refused_by_the_files_name_and_stays(
    harm, pattern, killed, job_file, headrace, tmp_path
):
    run = shutil.copytree(killed, tmp_path / "run")
    file = _data(_last(run), pattern)
    HARMS[harm](file)
    there = sorted(path for path in run.rglob("*") if path.is_file())
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 2
    assert str(file) in said
    assert "--fallback" in said
    assert sorted(path for path in run.rglob("*") if path.is_file()) == there


def test_with_fallback_the_one_before_is_gone_on_from(killed, finished_run, job_file, headrace, tools, tmp_path):
    run = shutil.copytree(killed, tmp_path / "run")
    last = _last(run)
    _flip(_data(last, FILES[0]))
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run, "--fallback")
    assert code == 0, said
    aside = last.with_name(f"set-aside-{last.name}")
    assert f"Step {int(last.name[5:]):,} is not gone on from; it is now {aside}" in said
    assert aside.is_dir()
    assert "retrieval: going on from step" in said
    tools.assert_same_bits(finished_run, run, "retrieval")


def test_clocks_that_jump_change_nothing(killed, finished_run, job_file, headrace, tools, tmp_path):
    """The older checkpoint looks newer, both are from years ahead, and what a killed save left from years ago."""
    run = shutil.copytree(killed, tmp_path / "run")
    first, last = sorted((run / "checkpoints" / "retrieval").glob("step-*"))
    left = last.with_name(".step-00000099.1.partial")
    left.mkdir()
    for folder, when in ((first, time.time() + 1e8), (last, time.time() + 5e7), (left, 1.0)):
        os.utime(folder, (when, when))
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 0, said
    assert f"going on from step {int(last.name[5:]):,}" in said
    assert not left.exists()
    tools.assert_same_bits(finished_run, run, "retrieval")


def test_a_slow_disk_holds_nothing_up_but_the_next_save(
    prepared, finished_run, job_file, headrace, tools, tmp_path, monkeypatch
):
    run = shutil.copytree(prepared, tmp_path / "run")
    write, slept = Writer.write, []

    def slowly(self, piece, values):
        time.sleep(0.05)
        slept.append(piece)
        write(self, piece, values)

    monkeypatch.setattr(Writer, "write", slowly)
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 0, said
    assert slept
    tools.assert_same_bits(finished_run, run, "retrieval")


def test_a_snapshot_whose_process_is_killed_is_told_and_costs_no_more_than_its_save(
    prepared, finished_run, job_file, headrace, tools, tmp_path, monkeypatch
):
    run = shutil.copytree(prepared, tmp_path / "run")
    rows, calls = images.Forked.rows, []

    def killing(self, variable, numbers):
        calls.append(self)
        if len(calls) == 30:
            os.kill(self._memory._child, 9)
        return rows(self, variable, numbers)

    monkeypatch.setattr(images.Forked, "rows", killing)
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    if not calls:
        pytest.skip("no compiler here: tables are copied, not forked")
    assert code == 2
    assert "was ended from outside" in said
    assert not list(run.rglob("*.partial"))
    monkeypatch.undo()
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 0, said
    assert "going on from step" in said
    tools.assert_same_bits(finished_run, run, "retrieval")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="wants a folder that nobody may write to")
def test_a_folder_that_cannot_be_written_is_named(job_file, headrace):
    code, said = headrace("run", job_file, "--run-dir", "/sys/kernel/run")
    assert code == 2
    assert "/sys/kernel/run: cannot be written" in said


def test_a_checkpoint_of_a_newer_version_is_refused(killed, job_file, headrace, tmp_path):
    run = shutil.copytree(killed, tmp_path / "run")
    manifest = _last(run) / "tables" / "rank-00000" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    code, said = headrace("train", "retrieval", job_file, "--run-dir", run)
    assert code == 2
    assert "written by a newer version (format 99; this one reads 1)" in said
    assert _last(run).is_dir()
