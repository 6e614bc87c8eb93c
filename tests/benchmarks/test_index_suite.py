"""The suite runs, its contenders do the same work, and its figures are what their names say."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.index_contenders import OURS, Contender, ours, peers
from benchmarks.index_data import FOLDER, K, clustered, data_folder
from benchmarks.index_exact import exact_search
from benchmarks.index_frontier import Point, Rounds, fastest, frontier, near, timed
from benchmarks.index_suite import run
from benchmarks.peers import PYTHON, PeerMissing
from foundation.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_quick_suite_measures_writes_figures_and_draws(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "data"))
    file, plots = tmp_path / "figures.json", tmp_path / "plots"
    words = [sys.executable, "-m", "benchmarks", "index", "--quick", "--json", file, "--plots", plots]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(file.read_text())["metrics"]
    assert all(math.isfinite(value) for value in metrics.values())
    wanted = {f"qps_vs_{rival}_batch{batch}" for rival in ("exact",) for batch in (1, 256)}
    if PYTHON.exists():
        wanted |= {f"qps_vs_best_peer_batch{batch}" for batch in (1, 256)}
    else:
        assert "there is no .venv-peers" in done.stdout
    wanted |= {"sharded_recall_loss", "build_time_two_workers_vs_one", "build_peak_memory_vs_vectors"}
    assert wanted <= metrics.keys()
    assert metrics["sharded_recall_loss"] == pytest.approx(metrics["whole_recall100"] - metrics["sharded_recall100"])
    assert metrics["build_peak_memory_vs_vectors"] > 0
    assert metrics["tower-64.headrace_recall100_batch256"] >= 0.95
    assert {f"index-tower-64-recall{k}-batch{batch}.png" for k in (10, 100) for batch in (1, 256)} <= {
        each.name for each in plots.iterdir()
    }


def test_a_part_that_there_is_not_is_told():
    with pytest.raises(UserError, match=r"no part 'tower64'.*'tower-64'"):
        run(quick=True, parts=["tower64"])


def test_parts_are_of_suites_that_have_them():
    words = [sys.executable, "-m", "benchmarks", "inputs", "--quick", "--part", "tower-64"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the suite inputs has no parts" in done.stderr


@pytest.mark.parametrize("size", [5, 100, 16_384, 16_500])
def test_exact_search_finds_what_sorting_all_products_finds(size):
    generator = np.random.default_rng(size)
    vectors = generator.standard_normal((size, 6), np.float32)
    queries = generator.standard_normal((300, 6), np.float32)
    k = min(size, 7)
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(exact_search(vectors, queries, k), expected)


def test_a_set_is_a_function_of_its_recipe_and_is_made_once(tmp_path, monkeypatch):
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv(FOLDER, str(tmp_path / name))
        data = clustered(1_200, 16, 40)
        assert data.folder.parent == data_folder() == tmp_path / name
        found.append([np.load(data.vectors), np.load(data.queries), data.neighbours()])
        before = data.vectors.stat().st_mtime_ns
        assert clustered(1_200, 16, 40).vectors.stat().st_mtime_ns == before
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
    vectors, queries, neighbours = found[0]
    assert vectors.shape == (1_200, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(neighbours, exact_search(vectors, queries, K))


def test_a_contenders_name_tells_its_builds_apart():
    graphs = {"hnswlib": ((8, 100), (16, 200)), "faiss_hnsw": ((16, 200),)}
    settings = [{"leaves": share, "anisotropic_threshold": 0.2} for share in (1.0, 2.0)]
    contenders = [*ours(10_000, 64, settings, quick=True), *peers(10_000, 64, graphs, quick=False)]
    assert len({contender.name for contender in contenders}) == len(contenders)
    assert [contender.build["leaves"] for contender in contenders[:2]] == [100, 200]


class _Process:
    """Answers as a contender's process does, and ends at its `lasts`-th question."""

    def __init__(self, lasts: int = 10_000) -> None:
        self._left = lasts

    def ask(self, question):
        self._left -= 1
        if self._left < 0:
            raise PeerMissing("it ended")
        return {"seconds": 0.5 * question["batch"] * question["count"]}


def test_a_contender_that_ends_is_told_and_the_others_go_on():
    contender = Contender("hnswlib", {"kind": "hnswlib"}, ((1,),))
    asked = {("lives", (1,)): (contender, _Process()), ("ends", (1,)): (contender, _Process(lasts=3))}
    rates, ended = timed(asked, Rounds(of_batches=5, warmup=1), {})
    assert rates == {("lives", (1,)): {1: 2.0, 256: 2.0}}
    assert ended == {"ends": "it ended"}


def _point(rate: float, recall: float) -> Point:
    return Point(Contender(OURS, {"kind": "scann"}, ()), (), {K: recall}, {1: rate})


def test_a_frontier_holds_what_nothing_beats_in_both():
    fast, good, beaten, best = _point(90, 0.5), _point(50, 0.95), _point(40, 0.9), _point(10, 0.99)
    assert frontier([beaten, best, good, fast], 1) == [fast, good, best]
    assert fastest([fast, good, beaten, best], 1, 0.95) is good
    assert fastest([fast, good], 1, 0.96) is None


def test_an_effort_is_not_timed_further_where_its_family_does_the_same_far_faster():
    fast, slow, good = _point(90, 0.95), _point(50, 0.95), _point(40, 0.99)
    other = Point(Contender("hnswlib", {"kind": "hnswlib"}, ()), (), {K: 0.94}, {1: 9})
    assert near([slow, fast, other, good]) == [fast, other, good]
    assert near([slow, _point(60, 0.96)]) == [slow, _point(60, 0.96)]  # not far


def test_a_slow_contender_makes_fewer_calls_in_a_turn():
    rounds = Rounds(batches=3, singles=50, seconds=0.5)
    assert [rounds.calls(256, rate) for rate in (None, 20.0, 1_024.0, 1e6)] == [1, 1, 2, 3]
    assert [rounds.calls(1, rate) for rate in (None, 1.0, 50.0, 1e6)] == [5, 1, 25, 50]
