"""Kernels are compiled once for a machine, safely, or done without in words; and give the same bits at any number of
threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embeddings.kernels import choice, compiled, kernels, reference
from foundation.errors import UserError

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("thread_program.py")


def _digests(*parts, **environment):
    """(what the program printed, line by line; what it said)."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *parts],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    digests = done.stdout.split()
    assert [len(digest) for digest in digests] == [128] * len(parts)
    return digests, done.stderr


@pytest.mark.skipif(not compiled(), reason="no compiler here")
def test_the_same_bits_at_any_number_of_threads():
    """Training's steps, and what is exchanged between ranks."""
    digests = {threads: _digests("steps", "exchange", THREADS=threads)[0] for threads in ("1", "3", "8")}
    assert len(set(map(tuple, digests.values()))) == 1, digests


@pytest.fixture
def no_compiler(tmp_path):
    """A PATH on which there is no compiler."""
    (tmp_path / "bin").mkdir()
    for name in ("uname", "lscpu"):
        if found := shutil.which(name):
            (tmp_path / "bin" / name).symlink_to(found)
    return {"PATH": str(tmp_path / "bin"), "HEADRACE_CACHE": str(tmp_path / "cache")}


def test_without_a_compiler_the_twin_works_and_says_what_it_costs(no_compiler):
    _, said = _digests("steps", **no_compiler)
    assert said.count("no C++ compiler (g++) on PATH. Tables are looked up and updated by TensorFlow's own ops") == 1


@pytest.fixture
def of_a_fresh_process(monkeypatch):
    """of_a_fresh_process(NAME=VALUE, ...): the kernels that one under these variables would choose."""

    def chosen(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(choice, "_native", choice._native.__wrapped__)  # what this one found out already
        return kernels()

    return chosen


def test_required_kernels_that_cannot_be_had_are_an_error(no_compiler, of_a_fresh_process):
    with pytest.raises(UserError) as refused:
        of_a_fresh_process(HEADRACE_KERNELS="require", **no_compiler)
    assert str(refused.value) == "kernels: no C++ compiler (g++) on PATH.\nInstall g++, or name one: CXX=..."


def test_a_cache_that_cannot_be_written_is_named(tmp_path, of_a_fresh_process, capfd):
    (tmp_path / "file").touch()
    assert of_a_fresh_process(HEADRACE_CACHE=str(tmp_path / "file" / "cache")) is reference
    if shutil.which("g++"):
        assert "the cache of kernels cannot be written" in capfd.readouterr().err


def test_the_mode_is_one_of_three(of_a_fresh_process):
    with pytest.raises(UserError) as refused:
        of_a_fresh_process(HEADRACE_KERNELS="maybe")
    assert str(refused.value) == "HEADRACE_KERNELS is 'maybe'.\nIt may be auto, off, require."
