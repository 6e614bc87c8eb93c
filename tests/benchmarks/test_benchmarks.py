"""What `python -m benchmarks` promises: figures on the screen and in a file, and plain words where there are none."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ids import DISTRIBUTIONS
from benchmarks.interleaved import interleave
from benchmarks.peers import PYTHON

ROOT = Path(__file__).parents[2]


def measure(*words):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_embeddings_suite_prints_a_table_and_writes_its_figures(tmp_path):
    file = tmp_path / "figures.json"
    done = measure("embeddings", "--quick", "--json", file)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    assert written.keys() == {"suite", "protocol", "machine", "metrics"}
    assert written["suite"] == "embeddings"
    assert all(math.isfinite(value) and value >= 0 for value in written["metrics"].values())
    for distribution in ("uniform", "skewed"):
        for optimizer in ("rowwise_adagrad", "adagrad", "sgd"):
            assert f"{distribution}.{optimizer}" in done.stdout
            ratio = written["metrics"][f"{distribution}.{optimizer}.time_over_keras"]
            names = [f"{distribution}.{optimizer}.{name}_ms" for name in ("headrace", "keras")]
            ours, theirs = (written["metrics"][name] for name in names)
            assert ratio == pytest.approx(ours / theirs)
    measured = "uniform.sgd.time_over_fbgemm" in written["metrics"]
    assert measured != ("FBGEMM was not measured" in done.stdout)
    assert measured or not PYTHON.exists() or "ended with code" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["embedings"], "did you mean 'embeddings'?"),
        (["embeddings", "--json", "."], "this is a folder"),
        ([], "Missing argument 'SUITE'"),
    ],
)
def test_a_mistake_is_told_in_words_with_exit_code_2(words, told):
    done = measure(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_contenders_take_turns_and_warm_up_is_not_counted():
    calls = []

    def contender(name, seconds):
        def run(number):
            calls.append((number, name))
            return 100.0 if number < 2 else seconds

        return run

    times = interleave({"fast": contender("fast", 1.0), "slow": contender("slow", 2.0)}, rounds=5, warmup=2)
    assert (times["fast"].median, times["slow"].median) == (1.0, 2.0)
    assert times["fast"].spread == 0.0
    assert [number for number, _ in calls] == [number for number in range(7) for _ in range(2)]
    assert all({name for number, name in calls if number == k} == {"fast", "slow"} for k in range(7))


def test_skewed_ids_follow_the_zipf_law_and_uniform_ids_do_not():
    counts = {}
    for name, draw in DISTRIBUTIONS.items():
        ids = draw(np.random.default_rng(3), (200, 500), 1000)
        assert ids.shape == (200, 500)
        assert ids.dtype == np.int64
        assert ids.min() >= 0
        assert ids.max() < 1000
        counts[name] = np.sort(np.bincount(ids.ravel(), minlength=1000))[::-1]
    share = 1 / (np.arange(1, 1001) ** -1.05).sum()
    assert counts["skewed"][0] / 100_000 == pytest.approx(share, rel=0.05)
    assert counts["skewed"][0] / counts["skewed"][9] == pytest.approx(10**1.05, rel=0.1)
    assert counts["uniform"][0] < 200
