"""`headrace index`, and what a user gets wrong with it: one message, exit code 2, nothing half-written."""

import json
import sys

import numpy as np
import pytest

from retrieval.index import ShardedIndex
from retrieval.index.recall import exact_search, recall_of
from tests.retrieval.index.sources import clustered, write_npy
from trainer import main


@pytest.fixture
def source(tmp_path):
    return write_npy(tmp_path / "source", np.arange(100, 3_100), clustered(3_000))


@pytest.fixture
def queries(tmp_path):
    np.save(tmp_path / "queries.npy", clustered(120, seed=1))
    return tmp_path / "queries.npy"


@pytest.fixture
def headrace(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["headrace", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return ended.value.code, capsys.readouterr()

    return call


def test_tune_then_build_what_it_chose_then_export(headrace, tmp_path, source, queries):
    out, tuned, plot = tmp_path / "index", tmp_path / "tuned.json", tmp_path / "frontier.png"
    code, said = headrace(
        *("index", "tune", source, "--queries", queries, "--target-recall", 0.9, "--sample", 1_500),
        *("--json", tuned, "--plot", plot, "--k", 20),
    )
    assert code == 0, said.err
    assert "chosen: " in said.err
    assert all(line.startswith("--set index.") for line in said.out.splitlines())
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads(tuned.read_text())["size"] == 1_500
    code, said = headrace("index", "build", source, out, "--tuned", tuned, "--shards", 2, "--queries", queries)
    assert code == 0, said.err
    assert "3,000 vectors of 16 in 2 shards" in said.err
    code, said = headrace("index", "export", out, out)
    assert code == 2
    assert "this is there already" in said.err


def test_build_reaches_the_target_and_says_so(headrace, tmp_path, source, queries):
    out = tmp_path / "index"
    sets = ("--set", "index.brute_force_below=0", "--set", "index.leaves=30", "--set", "index.reorder=300")
    code, said = headrace(
        *("index", "build", source, out, "--shards", 2, "--workers", 2, "--queries", queries),
        *("--target-recall", 0.9, *sets),
    )
    assert code == 0, said.err
    index = ShardedIndex.load(out)
    wanted, _ = exact_search(clustered(3_000), clustered(120, seed=1), 100)
    assert recall_of(index.search(clustered(120, seed=1), 100)[0], wanted + 100) >= 0.9
    assert f"{index.facts.effort.leaves_to_search} of 30 leaves of each searched, recall@100" in said.err
    code, said = headrace(
        *("index", "build", source, out, "--shards", 2, "--workers", 1, "--queries", queries),
        *("--target-recall", 0.9, *sets),
    )
    assert (code, "built already" in said.err) == (0, True)


def test_mistakes_are_told_in_a_message_each(headrace, tmp_path, source):
    np.save(tmp_path / "narrow.npy", np.ones((4, 3), np.float32))
    np.save(tmp_path / "line.npy", np.ones(4, np.float32))
    np.save(tmp_path / "nan.npy", np.full((4, 16), np.nan, np.float32))
    bad = clustered(3_000)
    bad[17] = np.nan
    write_npy(tmp_path / "bad", np.arange(3_000), bad)
    out = tmp_path / "out"
    tree = ("--set", "index.brute_force_below=0", "--set", "index.leaves=20")
    for words, said in (
        (("build", tmp_path / "none", out), "no such file or folder"),
        (("build", source, out, "--set", "index.leafs=3"), "leafs: unknown key; did you mean 'leaves'?"),
        (("build", source, out, "--set", "retrieval.dim=3"), "only keys of `index` decide here"),
        (("build", source, out, "--set", "index.brute_force_below=measured"), "is what `headrace index tune` is for"),
        (("build", source, out, "--set", "index.brute_force_below=-1"), "must be 0 or more, or measured"),
        (("build", source, "--shards", 2), "no OUT is given"),
        (("build", source, out, "--run-dir", tmp_path), "--run-dir is a job's"),
        (("build", source, out, "--queries", tmp_path / "none.npy"), "no such file of queries"),
        (("build", source, out, "--queries", tmp_path / "line.npy"), "queries are [Q, D] float32"),
        (("build", source, out, *tree, "--queries", tmp_path / "narrow.npy"), "where the vectors have 16 numbers"),
        (("build", source, out, "--tuned", tmp_path / "none.json"), "is missing"),
        (("build", source, out, "--tuned", tmp_path / "t", "--set", "index.leaves=3"), "--tuned and --set both say"),
        (("build", source, out, "--set", "index.leaves_to_search=3", "--target-recall", 0.9), "both say how much is"),
        (("build", source, out, "--target-recall", 0), "0"),
        (("build", source, source / "ids.npy" / "out"), "out: cannot be written"),
        (("build", source, source / "ids.npy" / "deep" / "out"), "out: cannot be written"),
        (("tune", source, "--queries", tmp_path / "narrow.npy"), "narrow.npy: queries of 3 numbers, where the vectors"),
        (("tune", source, "--queries", tmp_path / "nan.npy"), "nan.npy: 4 of 4 queries are not finite"),
        (("build", source, source / "ids.npy"), "this is there already, and no sharded index"),
        (("build", source, out, "--tuned", source), "cannot be read"),
        (
            ("build", source, out, *tree[:2], "--set", "index.leaves=2_000", "--set", "index.training_sample=1_000"),
            "2000 le",
        ),
        (("tune", tmp_path / "bad"), "the vector of id 17 (row 17 of"),
        (("tune", source, "--json", source / "ids.npy" / "t.json"), "t.json: cannot be written"),
        (("tune", source, "--plot", source), f"{source}: cannot be written"),
        (("export", tmp_path / "none", out), "the index's manifest is missing"),
    ):
        code, answer = headrace("index", *words)
        assert code == 2, words
        assert said in answer.err.replace("\n", " "), (words, answer.err)
        assert "Traceback" not in answer.err
        assert not out.exists()
