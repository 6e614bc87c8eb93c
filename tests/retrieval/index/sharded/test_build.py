"""A sharded index: the same answers as the whole, built piece by piece, whole or not there, and every mistake named."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation import files
from foundation.errors import UserError
from retrieval.index import Effort, Searcher, ShardedIndex, TreeSetting, build_sharded
from retrieval.index.recall import exact_search, recall_of
from retrieval.index.sharded import build
from retrieval.index.sharded.distinct import repeated_value
from retrieval.index.sharded.index import merged
from retrieval.index.sources.source import open_source
from tests.retrieval.index.sources import clustered, parquet_table, write_npy, write_parquet, write_zarr
from tests.retrieval.index.waiting import until

SIZE = 6_000
SETTING = TreeSetting(leaves=40, leaves_to_search=40, reorder=300)


@pytest.fixture(scope="module")
def vectors():
    return clustered(SIZE)


@pytest.fixture(scope="module")
def queries():
    return clustered(60, seed=1)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(5).permutation(10 * SIZE)[:SIZE]


@pytest.fixture
def source(tmp_path, ids, vectors):
    return write_npy(tmp_path / "source", ids, vectors)


def parts_of(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


class TestMerge:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_exact_shards_merged_are_the_exact_whole(self, data):
        size, dim = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 4))
        shards, k = data.draw(st.integers(1, min(size, 7))), data.draw(st.integers(1, 70))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        vectors = rng.integers(-2, 3, size=(size, dim)).astype(
            np.float32
        )  # whole numbers: sums are exact, ties are many
        queries = rng.integers(-2, 3, size=(3, dim)).astype(np.float32)
        ids = np.sort(rng.permutation(3 * size)[:size])
        cuts = [size * shard // shards for shard in range(shards + 1)]
        answers = []
        for start, stop in itertools.pairwise(cuts):
            rows, scores = Searcher.build_exact(vectors[start:stop]).search(queries, k)
            answers.append((np.where(rows < 0, -1, ids[start:stop][rows]), scores))
        found, scores = merged(answers, k)
        wanted, best = exact_search(vectors, queries, min(k, size))
        np.testing.assert_array_equal(found[:, :size], ids[wanted])
        np.testing.assert_array_equal(scores[:, :size], best)
        assert (found[:, size:] == -1).all()
        assert (scores[:, size:] == -np.inf).all()


class TestBuild:
    @pytest.mark.parametrize("shards", [1, 3])
    @pytest.mark.parametrize("kind", ["npy", "parquet", "parquet_folder", "zarr"])
    def test_any_source_gives_the_exact_answers(self, tmp_path, ids, vectors, queries, kind, shards):
        ids, vectors = ids[:2_500], vectors[:2_500]
        if kind == "npy":
            path = write_npy(tmp_path / "s", ids, vectors)
        elif kind == "parquet":
            path = write_parquet(tmp_path / "rows.parquet", ids, vectors, 700)
        elif kind == "parquet_folder":
            write_parquet(tmp_path / "s" / "a.parquet", ids[:900], vectors[:900], 800)
            write_parquet(tmp_path / "s" / "b.parquet", ids[900:], vectors[900:], 5_000)
            path = tmp_path / "s"
        else:
            path = write_zarr(tmp_path / "s", ids, vectors)
        facts = build_sharded(path, tmp_path / "out", None, shards, 2)
        assert (facts.size, facts.dim, len(facts.shards)) == (2_500, 16, shards)
        found, scores = ShardedIndex.load(tmp_path / "out").search(queries, 20)
        wanted, best = exact_search(vectors, queries, 20)
        np.testing.assert_array_equal(found, ids[wanted])
        np.testing.assert_allclose(scores, best, rtol=1e-5)
        assert found.dtype == np.int64
        assert scores.dtype == np.float32

    @pytest.mark.parametrize(
        ("precision", "soar", "avq"),
        [("float32", None, None), ("float32", 1.5, None), ("bfloat16", 1.5, None), ("int8", None, 2.5)],
    )
    def test_a_tree_over_shards_finds_nearly_all(self, tmp_path, source, ids, vectors, queries, precision, soar, avq):
        setting = TreeSetting(40, 40, 400, soar=soar, reorder_precision=precision, training_sample=1_000, avq=avq)
        build_sharded(source, tmp_path / "out", setting, 2, 2)
        found, _ = ShardedIndex.load(tmp_path / "out").search(queries, 50)
        wanted, _ = exact_search(vectors, queries, 50)
        assert recall_of(found, ids[wanted]) > 0.97
        dataset = {"float32": "dataset.npy", "bfloat16": "bfloat16_dataset.npy", "int8": "int8_dataset.npy"}[precision]
        held = [name for name in parts_of(tmp_path / "out") if name.endswith("dataset.npy") and "hashed" not in name]
        assert held == [f"shard-0000{n}/scann/{dataset}" for n in (0, 1)]
        assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []

    def test_the_least_effort_that_reaches_the_target_is_kept(self, tmp_path, source, ids, vectors, queries):
        facts = build_sharded(source, tmp_path / "out", SETTING, 3, 2, target_recall=0.9, queries=queries)
        index = ShardedIndex.load(tmp_path / "out")
        assert index.facts == facts
        assert facts.effort.leaves_to_search < 40
        wanted, _ = exact_search(vectors, queries, 100)
        assert facts.recall_at == 100
        assert facts.recall >= 0.9
        assert recall_of(index.search(queries, 100)[0], ids[wanted]) == pytest.approx(facts.recall)
        less = index.search(queries, 100, Effort(1, 300))[0]
        assert recall_of(less, ids[wanted]) < facts.recall

    def test_fewer_items_than_k_and_than_shards(self, tmp_path, vectors, queries):
        path = write_npy(tmp_path / "few", np.arange(5), vectors[:5])
        facts = build_sharded(path, tmp_path / "out", SETTING, 9, 2)
        assert len(facts.shards) == 5
        found, scores = ShardedIndex.load(tmp_path / "out").search(queries, 8)
        assert (np.sort(found[:, :5], axis=1) == np.arange(5)).all()
        assert (found[:, 5:] == -1).all()
        assert (scores[:, 5:] == -np.inf).all()

    def test_what_is_there_already_is_left_and_another_refused(self, tmp_path, source, capsys):
        first = build_sharded(source, tmp_path / "out", None, 2, 1)
        before = (tmp_path / "out" / "sharded.json").stat()
        assert build_sharded(source, tmp_path / "out", None, 2, 1) == first
        assert (tmp_path / "out" / "sharded.json").stat().st_mtime_ns == before.st_mtime_ns
        with pytest.raises(UserError, match=r"made from something else .shards: 2, now 3"):
            build_sharded(source, tmp_path / "out", None, 3, 1)

    def test_the_queries_that_chose_the_effort_are_part_of_what_it_was_made_from(self, tmp_path, source, queries):
        build_sharded(source, tmp_path / "out", SETTING, 1, 1, 0.9, queries)
        with pytest.raises(UserError, match=r"made from something else .queries: "):
            build_sharded(source, tmp_path / "out", SETTING, 1, 1, 0.9, queries[:30])
        build_sharded(source, tmp_path / "plain", SETTING, 1, 1, None, queries)
        build_sharded(source, tmp_path / "plain", SETTING, 1, 1, None, queries[:30])  # which decided nothing

    def test_codes_are_measured_once_however_often_it_is_gone_on_with(self, tmp_path, source, queries, monkeypatch):
        """ScaNN's k-means is not reproducible: another measurement may come out otherwise."""
        answers = iter([6, None])
        monkeypatch.setattr(build, "measured_codes", lambda *given: next(answers))
        with monkeypatch.context() as patched:
            patched.setattr(build, "do_tasks", interrupted)
            with pytest.raises(KeyboardInterrupt):
                build_sharded(source, tmp_path / "out", SETTING, 2, 1, None, queries, measure_codes=True)
        facts = build_sharded(source, tmp_path / "out", SETTING, 2, 1, None, queries, measure_codes=True)
        assert facts.setting.codes == 6
        assert build_sharded(source, tmp_path / "out", SETTING, 2, 1, None, queries, measure_codes=True) == facts
        assert ShardedIndex.load(tmp_path / "out").facts == facts
        assert next(answers) is None
        assert sorted(e.name for e in (tmp_path / "out").iterdir()) == ["shard-00000", "shard-00001", "sharded.json"]


class TestKilled:
    PROGRAM = """
import sys
from retrieval.index import TreeSetting, build_sharded
build_sharded(sys.argv[1], sys.argv[2], TreeSetting(40, 40, 300), 4, 1)
"""

    def start(self, source: Path, out: Path) -> subprocess.Popen:
        root = str(Path(__file__).parents[4])
        env = {**os.environ, "PYTHONPATH": root}
        return subprocess.Popen([sys.executable, "-c", self.PROGRAM, str(source), str(out)], env=env)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    def test_a_killed_build_goes_on_from_the_shards_that_are_done(self, tmp_path, source, queries, number):
        work = tmp_path / ".out.building"
        process = self.start(source, tmp_path / "out")
        until((work / "shard-00001").exists, 60)
        process.send_signal(number)
        process.wait()
        assert process.returncode != 0
        assert not (tmp_path / "out").exists()
        before = (work / "shard-00000" / "searcher.json").stat().st_mtime_ns
        until(lambda: not [e for e in work.glob(".shard*.partial") if alive(int(e.name.split(".")[-2]))], 60)
        build_sharded(source, tmp_path / "out", SETTING, 4, 2)
        assert (tmp_path / "out" / "shard-00000" / "searcher.json").stat().st_mtime_ns == before
        assert sorted(e.name for e in tmp_path.iterdir()) == ["out", "source"]
        assert sorted(e.name for e in (tmp_path / "out").iterdir()) == [
            "shard-00000",
            "shard-00001",
            "shard-00002",
            "shard-00003",
            "sharded.json",
        ]
        assert (ShardedIndex.load(tmp_path / "out").search(queries, 5)[0] >= 0).all()

    def test_a_shard_that_was_damaged_meanwhile_is_built_again(self, tmp_path, source, ids, vectors, queries):
        self.killed(tmp_path, source)
        part = tmp_path / ".out.building" / "shard-00000" / "scann" / "dataset.npy"
        part.write_bytes(part.read_bytes()[:-1])
        build_sharded(source, tmp_path / "out", SETTING, 4, 2)
        wanted, _ = exact_search(vectors, queries, 10)
        assert recall_of(ShardedIndex.load(tmp_path / "out").search(queries, 10)[0], ids[wanted]) > 0.9

    def test_what_was_begun_from_something_else_is_refused(self, tmp_path, source):
        self.killed(tmp_path, source)
        with pytest.raises(UserError, match=r"a build from something else was not finished .shards: 4, now 5"):
            build_sharded(source, tmp_path / "out", SETTING, 5, 2)

    def test_killed_while_it_commits_it_is_still_of_its_plan_alone(self, tmp_path, source, ids, vectors, monkeypatch):
        """The last seconds of a large build: all files are written out, and then renamed."""
        with monkeypatch.context() as patched:
            patched.setattr(files, "_sync", interrupted_at(tmp_path / ".out.building"))
            with pytest.raises(KeyboardInterrupt):
                build_sharded(source, tmp_path / "out", None, 2, 1)
        other = write_npy(tmp_path / "other", ids[::-1], vectors)
        with pytest.raises(UserError, match=r"a build from something else was not finished .source: "):
            build_sharded(other, tmp_path / "out", None, 2, 1)
        before = (tmp_path / ".out.building" / "shard-00000" / "searcher.json").stat().st_mtime_ns
        build_sharded(source, tmp_path / "out", None, 2, 1)
        assert (tmp_path / "out" / "shard-00000" / "searcher.json").stat().st_mtime_ns == before
        assert sorted(e.name for e in (tmp_path / "out").iterdir()) == ["shard-00000", "shard-00001", "sharded.json"]

    def test_shards_of_no_known_plan_are_not_taken(self, tmp_path, source, ids, vectors, queries):
        self.killed(tmp_path, source)
        (tmp_path / ".out.building" / "plan.json").unlink()
        other = write_npy(tmp_path / "other", 7 + ids, vectors)
        build_sharded(other, tmp_path / "out", SETTING, 4, 1)
        wanted, _ = exact_search(vectors, queries, 10)
        assert recall_of(ShardedIndex.load(tmp_path / "out").search(queries, 10)[0], 7 + ids[wanted]) > 0.9

    def test_a_source_mended_after_it_was_refused_is_built(self, tmp_path, ids, vectors, queries, capsys):
        bad = vectors.copy()
        bad[5_000] = np.nan
        path = write_npy(tmp_path / "s", ids, bad)
        with pytest.raises(UserError, match="is not finite"):
            build_sharded(path, tmp_path / "out", None, 2, 1)
        np.save(path / "vectors.npy", vectors)
        build_sharded(path, tmp_path / "out", None, 2, 1)
        assert "begun again" in capsys.readouterr().err
        wanted, _ = exact_search(vectors, queries, 10)
        np.testing.assert_array_equal(ShardedIndex.load(tmp_path / "out").search(queries, 10)[0], ids[wanted])

    def test_a_source_that_changes_while_it_is_built_is_told(self, tmp_path, source, vectors, monkeypatch):
        def meanwhile(*given):
            done_by_workers(*given)
            np.save(source / "vectors.npy", vectors + 1)

        done_by_workers = build.do_tasks
        monkeypatch.setattr(build, "do_tasks", meanwhile)
        with pytest.raises(UserError, match="it changed while the index was built"):
            build_sharded(source, tmp_path / "out", None, 2, 1)
        assert not (tmp_path / "out").exists()

    def killed(self, tmp_path, source):
        process = self.start(source, tmp_path / "out")
        until((tmp_path / ".out.building" / "shard-00000").exists, 60)
        process.kill()
        process.wait()


def interrupted(*given):
    raise KeyboardInterrupt


def interrupted_at(folder):
    def sync(path):
        if path == folder and (folder / "sharded.json").exists():
            raise KeyboardInterrupt
        real(path)

    real = files._sync
    return sync


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class TestMistakes:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_vector_that_is_not_finite_is_named_by_its_id(self, tmp_path, ids, vectors, bad):
        vectors = vectors.copy()
        vectors[4_321, 3] = bad
        path = write_parquet(tmp_path / "v.parquet", ids, vectors, 1_000)
        with pytest.raises(UserError) as caught:
            build_sharded(path, tmp_path / "out", None, 2, 2)
        assert f"the vector of id {ids[4_321]} (row 321 of row group 4 of {path}) is not finite" in caught.value.message
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("second", [30, 5_000])  # in the same shard, in another
    def test_an_id_that_occurs_twice_is_named_with_both_places(self, tmp_path, ids, vectors, second):
        ids = ids.copy()
        ids[second] = ids[17]
        path = write_npy(tmp_path / "s", ids, vectors)
        with pytest.raises(UserError) as caught:
            build_sharded(path, tmp_path / "out", None, 2, 2)
        where = path / "vectors.npy"
        assert f"id {ids[17]} occurs twice: row 17 of {where} and row {second} of {where}" in caught.value.message

    def test_a_negative_id_is_named(self, tmp_path, ids, vectors):
        path = write_npy(tmp_path / "s", np.where(ids == ids[7], -3, ids), vectors)
        with pytest.raises(UserError, match="id -3 is negative"):
            build_sharded(path, tmp_path / "out", None, 2, 2)

    def test_files_of_other_dimensions_are_named(self, tmp_path, vectors):
        write_parquet(tmp_path / "s" / "a.parquet", np.arange(10), vectors[:10])
        write_parquet(tmp_path / "s" / "b.parquet", np.arange(10, 20), vectors[:10, :7])
        with pytest.raises(UserError, match=r"b.parquet: its vectors have 7 numbers; those of .*a.parquet have 16"):
            open_source(tmp_path / "s")

    def test_a_row_group_with_a_vector_of_another_dimension_is_named(self, tmp_path):
        rows = pa.table({"id": range(4), "vector": pa.array([[1.0, 2.0]] * 3 + [[1.0]], pa.list_(pa.float32()))})
        pq.write_table(rows, tmp_path / "v.parquet", row_group_size=2)
        with pytest.raises(UserError) as caught:
            build_sharded(tmp_path / "v.parquet", tmp_path / "out", None, 1, 1)
        assert "row group 1 of" in caught.value.message
        assert "has 1 numbers; those before have 2" in caught.value.message

    def test_a_null_is_named(self, tmp_path):
        rows = pa.table(
            {"id": pa.array([1, None], pa.int64()), "vector": pa.array([[1.0]] * 2, pa.list_(pa.float32(), 1))}
        )
        pq.write_table(rows, tmp_path / "v.parquet")
        with pytest.raises(UserError, match="an id is missing"):
            build_sharded(tmp_path / "v.parquet", tmp_path / "out", None, 1, 1)

    @pytest.mark.parametrize("kind", ["npy", "parquet"])
    def test_an_empty_source_is_refused(self, tmp_path, kind):
        nothing, none = np.empty((0, 4), np.float32), np.empty(0, np.int64)
        path = tmp_path / "s"
        path = write_npy(path, none, nothing) if kind == "npy" else write_parquet(path / "a.parquet", none, nothing)
        with pytest.raises(UserError, match="no vector in it"):
            build_sharded(path, tmp_path / "out", None, 1, 1)

    def test_what_is_no_source_is_told_what_is(self, tmp_path, vectors):
        (tmp_path / "empty").mkdir()
        (tmp_path / "text").write_text("no")
        pq.write_table(pa.table({"id": [1.5], "vector": [[1.0]]}), tmp_path / "float_id.parquet")
        pq.write_table(pa.table({"item": [1]}), tmp_path / "other.parquet")
        pq.write_table(pa.table({"id": [1], "vector": ["a"]}), tmp_path / "words.parquet")
        write_npy(tmp_path / "uneven", np.arange(3), vectors[:4])
        write_npy(tmp_path / "flat", np.arange(3), vectors[0, :3])
        for name in ("none", "empty", "text", "float_id.parquet", "other.parquet", "words.parquet", "uneven", "flat"):
            with pytest.raises(UserError) as caught:
                open_source(tmp_path / name)
            assert str(tmp_path / name) in caught.value.message
            assert caught.value.remedy

    def test_queries_of_another_dimension(self, tmp_path, source, queries):
        build_sharded(source, tmp_path / "out", None, 2, 1)
        with pytest.raises(UserError, match=r"queries of shape \[60, 3\]; \[any, 16\] are wanted"):
            ShardedIndex.load(tmp_path / "out").search(queries[:, :3], 5)

    def test_every_part_that_is_damaged_or_missing_is_named(self, tmp_path, source):
        build_sharded(source, tmp_path / "out", SETTING, 2, 2)
        for name in parts_of(tmp_path / "out"):
            part = tmp_path / "out" / name
            content = part.read_bytes()
            for broken in (content[: len(content) // 2], bytes([content[0] ^ 1]) + content[1:], None):
                part.unlink() if broken is None else part.write_bytes(broken)
                with pytest.raises(UserError) as caught:
                    ShardedIndex.load(tmp_path / "out")
                assert str(part) in caught.value.message
                part.write_bytes(content)
        ShardedIndex.load(tmp_path / "out")

    def test_a_manifest_changed_by_hand_is_told(self, tmp_path, source):
        build_sharded(source, tmp_path / "out", None, 2, 1)
        file = tmp_path / "out" / "sharded.json"
        document = json.loads(file.read_text())
        document["facts"]["size"] += 1
        file.write_text(json.dumps(document))
        with pytest.raises(UserError, match=r"sharded.json: damaged"):
            ShardedIndex.load(tmp_path / "out")

    def test_a_worker_that_dies_is_told_and_no_process_is_left(self, tmp_path, ids, vectors, monkeypatch):
        program = tmp_path / "dies"
        program.write_text("#!/bin/sh\nkill -9 $$\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(UserError, match="was ended by signal 9"):
            build_sharded(write_npy(tmp_path / "s", ids, vectors), tmp_path / "out", None, 2, 2)

    def test_without_ray_a_cluster_is_refused(self, tmp_path, source, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(UserError, match="Ray is not installed"):
            build_sharded(source, tmp_path / "out", None, 2, 2, ray="auto")


class TestRepeated:
    @settings(deadline=None, max_examples=100)
    @given(lists=st.lists(st.sets(st.integers(0, 40), max_size=12), min_size=1, max_size=5), at_once=st.integers(1, 6))
    def test_equals_counting(self, lists, at_once):
        every = sorted(value for one in lists for value in one)
        twice = {value for value in every if every.count(value) > 1}
        found = repeated_value([np.array(sorted(one), np.int64) for one in lists], at_once)
        assert (found is None) == (not twice)
        assert found is None or found in twice


class _FakeRay:
    """As much of Ray as a build asks for, in this process."""

    def __init__(self):
        self.calls = []

    def init(self, address, **options):
        self.calls.append(("init", address))

    def shutdown(self):
        self.calls.append(("shutdown",))

    def remote(self, function):
        class Remote:
            @staticmethod
            def remote(module, task):
                self.calls.append(("task", task["start"]))
                return (self.calls.__len__(), json.dumps(function(module, task)))

        return Remote

    @staticmethod
    def wait(references, num_returns):
        return references[:1], references[1:]

    @staticmethod
    def get(reference):
        return json.loads(reference[1])


def test_a_cluster_builds_the_same(tmp_path, source, ids, vectors, queries, monkeypatch):
    fake = _FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    build_sharded(source, tmp_path / "out", None, 3, 2, ray="auto")
    assert fake.calls[0] == ("init", "auto")
    assert fake.calls[-1] == ("shutdown",)
    wanted, _ = exact_search(vectors, queries, 9)
    np.testing.assert_array_equal(ShardedIndex.load(tmp_path / "out").search(queries, 9)[0], ids[wanted])
    shutil.rmtree(tmp_path / "out")
    bad = vectors.copy()
    bad[3] = np.nan
    path = write_npy(tmp_path / "bad", ids, bad)
    with pytest.raises(UserError, match="is not finite"):
        build_sharded(path, tmp_path / "out", None, 3, 2, ray="auto")


def test_the_table_of_a_test_is_what_checkpoint_export_writes(tmp_path):
    """The columns that the sources of these tests have are those the exporter's README names."""
    schema = parquet_table(np.arange(2), np.ones((2, 3), np.float32)).schema
    assert str(schema.field("id").type) == "int64"
    assert schema.field("vector").type.list_size == 3
