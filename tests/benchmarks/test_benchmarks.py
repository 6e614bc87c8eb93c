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
from benchmarks.problem import draw

ROOT = Path(__file__).parents[2]


def measure(*words):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.long
def test_the_embeddings_suite_prints_a_table_and_writes_figures_and_plots(tmp_path):
    file = tmp_path / "figures.json"
    plots = tmp_path / "plots"
    done = measure("embeddings", "--quick", "--json", file, "--plots", plots)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    assert written.keys() == {"suite", "protocol", "machine", "metrics"}
    assert written["suite"] == "embeddings"
    assert all(math.isfinite(value) and value >= 0 for value in written["metrics"].values())
    metrics = written["metrics"]
    wanted = [f"{what}_vs_{peer}_{ids}" for what, peer, ids in (
        *(("step", peer, ids) for peer in ("twin", "keras") for ids in ("uniform", "zipf105", "zipf12")),
        ("multihot", "embedding_lookup_sparse", "zipf12"),
    )]  # fmt: skip
    wanted += ["dynamic_find_or_insert_vs_mutable_hash_table", "dynamic_find_or_insert_vs_dense_hash_table"]
    assert set(wanted) <= metrics.keys()
    assert metrics["step_vs_keras_uniform"] == pytest.approx(
        metrics["uniform, TensorFlow's.headrace_ms"] / metrics["uniform, TensorFlow's.keras_ms"]
    )
    measured = "step_vs_fbgemm_uniform" in metrics
    assert measured != ("FBGEMM was not measured" in done.stdout)
    assert measured or not PYTHON.exists() or "ended with code" in done.stdout
    assert {file.name for file in plots.iterdir()} == {
        f"embeddings-{name}.png" for name in ("width", "rows", "batch", "threads")
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("suite", "figure"), [("open_vocabulary", "dynamic_ndcg@10"), ("inputs", "parquet_time_vs_arrow_floor")]
)
def test_the_other_suites_run_and_write_their_figures(tmp_path, suite, figure):
    file = tmp_path / "figures.json"
    done = measure(suite, "--quick", "--json", file)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(file.read_text())["metrics"]
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics[figure] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["embedings"], "did you mean 'embeddings'?"),
        (["embeddings", "--json", "."], "this is a folder"),
        (["embeddings", "--plots", "README.md"], "this is a file"),
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


def test_zipf_ids_follow_their_law_and_uniform_ids_do_not():
    counts = {}
    for name, ids_of in DISTRIBUTIONS.items():
        ids = ids_of(np.random.default_rng(3), (200, 500), 1000)
        assert ids.shape == (200, 500)
        assert ids.dtype == np.int64
        assert ids.min() >= 0
        assert ids.max() < 1000
        counts[name] = np.sort(np.bincount(ids.ravel(), minlength=1000))[::-1]
    for name, exponent in (("zipf105", 1.05), ("zipf12", 1.2)):
        share = 1 / (np.arange(1, 1001) ** -exponent).sum()
        assert counts[name][0] / 100_000 == pytest.approx(share, rel=0.05)
        assert counts[name][0] / counts[name][9] == pytest.approx(10**exponent, rel=0.1)
    assert counts["uniform"][0] < 200


def test_bags_lie_feature_by_feature():
    problem = draw("uniform", 50, (7, 3, 2), 2, bag=4)
    offsets = problem.offsets()
    assert len(offsets) == 7 * 3 + 1
    assert offsets[-1] == len(problem.ids[1])
    for feature, (ids, splits) in enumerate(problem.bags(1)):
        for row in range(7):
            begin, end = offsets[feature * 7 + row : feature * 7 + row + 2]
            assert np.array_equal(problem.ids[1][begin:end], ids[splits[row] : splits[row + 1]])
    one = draw("uniform", 50, (7, 3, 2), 1)
    assert np.array_equal(one.one_hot(0)[:, 2], one.ids[0][14:])
