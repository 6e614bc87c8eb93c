"""Versions: what is published is whole and judged, the swap is one rename, readers never see half."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from foundation.errors import UserError
from retrieval.index.live.config import LiveConfig
from retrieval.index.live.index import LiveIndex
from retrieval.index.setting import TreeSetting
from retrieval.index.sharded.build import build_sharded
from retrieval.index.versions import reader
from retrieval.index.versions.published import open_index
from retrieval.index.versions.reader import VersionedIndex
from retrieval.index.versions.versions import Demands, Pointer, Versions
from tests.retrieval.index.live.models import tree_builder
from tests.retrieval.index.sources import clustered, write_npy
from tests.retrieval.index.waiting import until
from trainer.main import app

REPOSITORY = Path(__file__).parents[4]
QUIET = LiveConfig(shadow_rate=0)
SIZE, DIM = 400, 4


def saved(path: Path, value: float, size: int = SIZE) -> Path:
    """An index all of whose vectors are `value`: an answer says which version it is of."""
    vectors = np.full((size, DIM), value, np.float32)
    LiveIndex.build(np.arange(size), vectors, QUIET, background=False).save(path)
    return path


def value_of(index: VersionedIndex) -> float:
    scores = index.search(np.full((1, DIM), 1 / DIM), SIZE)[1]
    assert len(set(scores[0].tolist())) == 1
    return float(scores[0, 0])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("indexes")
    return [saved(place / str(value), value) for value in (1, 2, 3, 4)]


@pytest.fixture
def root(folders, tmp_path):
    """One version published."""
    Versions(tmp_path / "root").publish(folders[0])
    return tmp_path / "root"


def left_behind(root: Path) -> list[str]:
    return [str(p) for p in root.rglob(".*") if p.name != ".lock"]


class TestPublish:
    def test_it_becomes_current_and_says_what_it_is(self, root, folders):
        version = Versions(root).publish(folders[1])
        assert (version.name, version.size, version.dim, version.recall) == ("0002", SIZE, DIM, 1.0)
        assert [v.name for v in Versions(root).listed()] == ["0001", "0002"]
        with VersionedIndex(root, poll_seconds=0) as index:
            assert (index.version, index.size, index.dim) == ("0002", SIZE, DIM)
            assert value_of(index) == 2
        assert not left_behind(root)

    def test_old_ones_are_pruned_and_no_name_is_given_twice(self, root, folders):
        for number in range(1, 6):
            Versions(root).publish(folders[number % 4], keep=2)
        assert [v.name for v in Versions(root).listed()] == ["0005", "0006"]
        assert sorted(p.name for p in (root / "versions").iterdir()) == ["0005", "0006"]
        Versions(root).rollback()
        assert Versions(root).publish(folders[0], keep=2).name == "0007"
        assert [v.name for v in Versions(root).listed()] == ["0005", "0007"]

    def test_a_damaged_one_is_refused_and_the_current_stays(self, root, folders, tmp_path):
        shutil.copytree(folders[1], tmp_path / "damaged")
        file = tmp_path / "damaged" / "vectors.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        with pytest.raises(UserError, match=r"vectors.npy: this part of the index is missing or damaged"):
            Versions(root).publish(tmp_path / "damaged")
        assert Versions(root).pointer().current == "0001"
        assert [p.name for p in (root / "versions").iterdir()] == ["0001"]

    def test_one_that_finds_too_little_is_refused(self, root, tmp_path):
        index = LiveIndex.build(
            np.arange(3_000), clustered(3_000), QUIET, builder=tree_builder(1, reorder=100), background=False
        )
        index.rebuild()
        index.save(tmp_path / "poor")
        with pytest.raises(UserError, match=r"recall 0\.\d+ on 256 queries, at least 0.999 is wanted"):
            Versions(root).publish(tmp_path / "poor", Demands(recall=0.999))
        assert Versions(root).publish(tmp_path / "poor", Demands(recall=0.1)).recall < 0.999

    def test_any_of_those_that_tie_will_do(self, root, tmp_path):
        write_npy(tmp_path / "source", np.arange(3_000), np.ones((3_000, DIM), np.float32))
        build_sharded(tmp_path / "source", tmp_path / "equal", None, 2, 1)
        asked = np.random.default_rng(0).standard_normal((9, DIM), np.float32)
        assert Versions(root).publish(tmp_path / "equal", queries=asked).recall == 1.0

    def test_one_that_lost_most_items_is_refused_unless_meant(self, root, tmp_path):
        saved(tmp_path / "small", 5, size=100)
        with pytest.raises(UserError, match=r"100 items, less than 0\.5 of the 400 of version 0001"):
            Versions(root).publish(tmp_path / "small")
        assert Versions(root).publish(tmp_path / "small", Demands(smallest_share=0)).size == 100

    @pytest.mark.parametrize(
        ("name", "words"),
        [("nowhere", "no such folder"), ("empty", "no index is here"), ("none", "the index is empty")],
    )
    def test_what_is_no_index_is_refused(self, root, tmp_path, name, words):
        (tmp_path / "empty").mkdir()
        LiveIndex(DIM, QUIET, background=False).save(tmp_path / "none")
        with pytest.raises(UserError, match=words):
            Versions(root).publish(tmp_path / name)
        assert not left_behind(root)

    def test_queries_of_another_dimension_are_refused(self, root, folders):
        with pytest.raises(UserError, match=r"queries of shape \[5, 9\]; \[any, 4\] are wanted"):
            Versions(root).publish(folders[1], queries=np.ones((5, 9)))

    @pytest.mark.parametrize("precision", [None, "float32", "int8"])
    def test_what_headrace_index_build_made(self, tmp_path, precision):
        """Exact, or a tree; with 8-bit vectors, what it was built from must be given."""
        setting = None if precision is None else TreeSetting(20, 20, 300, reorder_precision=precision)
        source = write_npy(tmp_path / "source", np.arange(3_000) * 7, clustered(3_000))
        build_sharded(source, tmp_path / "built", setting, shards=2, workers=1)
        versions, vectors = Versions(tmp_path / "root"), None
        if precision == "int8":
            with pytest.raises(UserError, match="does not hold its vectors in float32"):
                versions.publish(tmp_path / "built")
            vectors = source
        version = versions.publish(tmp_path / "built", vectors=vectors)
        assert version.size == 3_000
        assert version.recall > 0.95
        with VersionedIndex(tmp_path / "root", poll_seconds=0) as index:
            assert (index.search(clustered(5, seed=2), 10)[0] % 7 == 0).all()

    def test_a_mistake_makes_nothing(self, folders, tmp_path):
        root = tmp_path / "root"
        (tmp_path / "empty").mkdir()
        for folder, vectors in ((tmp_path / "nowhere", None), (tmp_path / "empty", None), (folders[0], "nowhere")):
            with pytest.raises(UserError):
                Versions(root).publish(folder, vectors=vectors)
        with pytest.raises(UserError, match="no version is published"):
            Versions(root).rollback()
        assert [entry.name for entry in tmp_path.iterdir()] == ["empty"]

    @pytest.mark.parametrize("root", ["index", "index/versions"])
    def test_an_index_is_not_published_into_itself(self, folders, tmp_path, root):
        shutil.copytree(folders[0], tmp_path / "index")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match="which is to be published"):
            Versions(tmp_path / root).publish(tmp_path / "index")
        assert sorted(tmp_path.rglob("*")) == before

    def test_two_at_once_are_refused(self, root, folders):
        with Versions(root)._alone(), pytest.raises(UserError, match="another process publishes"):
            Versions(root).publish(folders[1])


class TestRollback:
    def test_it_goes_back_as_often_as_there_are_versions(self, root, folders):
        for folder in folders[1:3]:
            Versions(root).publish(folder)
        assert Versions(root).rollback() == ("0003", "0002")
        assert Versions(root).rollback() == ("0002", "0001")
        with VersionedIndex(root, poll_seconds=0) as index:
            assert value_of(index) == 1
        with pytest.raises(UserError, match="no version to go back to"):
            Versions(root).rollback()
        assert Versions(root).publish(folders[3]).name == "0004"
        assert Versions(root).pointer().before == ("0001",)

    def test_it_does_not_go_back_to_what_is_damaged(self, root, folders):
        Versions(root).publish(folders[1])
        (root / "versions" / "0001" / "ids.npy").unlink()
        with pytest.raises(UserError, match="missing or damaged"):
            Versions(root).rollback()
        assert Versions(root).pointer().current == "0002"


class TestReaders:
    def test_none_sees_half_while_versions_come_and_go(self, root, folders):
        wrong, ended, seen = [], threading.Event(), set()
        with VersionedIndex(root, poll_seconds=0.002) as index:

            def search():
                while not ended.is_set():
                    try:
                        seen.add(value_of(index))
                    except Exception as error:
                        wrong.append(repr(error))

            threads = [threading.Thread(target=search) for _ in range(2)]
            for thread in threads:
                thread.start()
            for number in range(1, 8):
                Versions(root).publish(folders[number % 4], keep=1)
            Versions(root).publish(folders[2], keep=2)
            deadline = time.monotonic() + 20
            while index.version != "0009" and time.monotonic() < deadline:
                time.sleep(0.01)
            ended.set()
            for thread in threads:
                thread.join()
            assert value_of(index) == 3
        assert not wrong
        assert len(seen) > 1

    def test_a_version_that_cannot_be_read_leaves_the_one_before_in_service(self, root, folders):
        with VersionedIndex(root, poll_seconds=0.01) as index:
            Versions(root).publish(folders[1])
            (root / "versions" / "0002" / "ids.npy").write_bytes(b"")
            deadline = time.monotonic() + 10
            while index.failure is None and index.version == "0001" and time.monotonic() < deadline:
                time.sleep(0.01)
            if index.version == "0001":  # it did not read it before it was damaged
                assert "ids.npy" in index.failure
                assert value_of(index) == 1
            Versions(root).publish(folders[2])
            while index.version != "0003" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert value_of(index) == 3
            assert index.failure is None

    def test_one_that_memory_does_not_hold_beside_the_one_before_is_told_and_tried_again(
        self, root, folders, monkeypatch
    ):
        with VersionedIndex(root, poll_seconds=0.01) as index:
            with monkeypatch.context() as patched:
                patched.setattr(reader, "open_index", out_of_memory)
                Versions(root).publish(folders[1])
                until(lambda: index.failure, 20)
            assert "MemoryError" in index.failure
            assert value_of(index) == 1
            Versions(root).publish(folders[2])
            until(lambda: index.version == "0003", 20)
            assert index.failure is None

    def test_what_was_wrong_with_a_version_is_no_failure_once_it_is_rolled_back(self, root, folders):
        with VersionedIndex(root, poll_seconds=0.01) as index:
            Versions(root)._point(Pointer("0002", ("0001",), 2))  # of which nothing is there
            until(lambda: index.failure, 20)
            Versions(root).rollback()
            until(lambda: index.failure is None, 20)
            assert index.version == "0001"

    def test_its_threads_are_those_asked_for(self, root, folders):
        assert open_index(folders[0], threads=1).config.search_threads == 1

    def test_in_another_process(self, root, folders):
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        reader = context.Process(target=_reader, args=(root, theirs))
        reader.start()
        try:
            assert ours.poll(60)
            assert ours.recv() == 1
            Versions(root).publish(folders[1])
            assert ours.poll(20)
            assert ours.recv() == 2
            Versions(root).rollback()
            assert ours.poll(20)
            assert ours.recv() == 1
        finally:
            reader.kill()
            reader.join()

    def test_where_nothing_is_published(self, tmp_path):
        with pytest.raises(UserError, match="no version is published"):
            VersionedIndex(tmp_path)

    def test_a_pointer_that_is_damaged_is_named(self, root):
        (root / "current.json").write_text('{"current": "0001"}')
        with pytest.raises(UserError, match=r"current.json: damaged \(no 'before'\)"):
            VersionedIndex(root)


def out_of_memory(*given):
    raise MemoryError


def _reader(root, answers):
    """Says the value of each version that it sees."""
    last = None
    with VersionedIndex(root, poll_seconds=0.01) as index:
        while True:
            value = value_of(index)
            if value != last:
                answers.send(value)
                last = value
            time.sleep(0.005)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from foundation import files
    from retrieval.index.versions import versions

    def killing(module, name, step, at, done):
        real = getattr(module, name)
        def act(*given, **named):
            done[0] += 1
            mine = done[0] == step
            if mine and at == "before": os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*given, **named)
            finally:
                if mine: os.kill(os.getpid(), signal.SIGKILL)
        setattr(module, name, act)

    def publish(root, step, at):
        versions.Versions(root).publish(sys.argv[2])
        done = [0]
        for module, name in ((versions.shutil, "copy2"), (versions.shutil, "rmtree"), (os, "rename"), (os, "replace"),
                             (os, "mkdir"), (files, "_sync")):
            killing(module, name, step, at, done)
        versions.Versions(root).publish(sys.argv[3], keep=1)

    for step in range(1, 200):
        status = []
        for at in ("before", "after"):
            child = os.fork()
            if not child:
                publish(Path(sys.argv[1]) / f"{step}-{at}", step, at)
                os._exit(0)
            status.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(*status, flush=True)
        if status == [0, 0]:
            break
"""


def test_a_publisher_killed_at_any_step_leaves_one_version_or_the_other(folders, tmp_path):
    """Killed before, or after, the n-th thing that it does to the disk, for every n until it is done."""
    program, roots = tmp_path / "publisher.py", tmp_path / "roots"
    program.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, program, roots, *folders[:2]]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    killed = f"{-signal.SIGKILL} {-signal.SIGKILL}"
    assert ended.stdout.splitlines() == [killed] * (len(ended.stdout.splitlines()) - 1) + ["0 0"]
    assert ended.stdout.count(killed) > 20
    seen = set()
    for root in roots.iterdir():
        with VersionedIndex(root, poll_seconds=0) as index:
            seen.add((index.version, value_of(index)))
        assert Versions(root).publish(folders[2], keep=1).name in ("0002", "0003")
        with VersionedIndex(root, poll_seconds=0) as index:
            assert value_of(index) == 3
        assert not left_behind(root)
        assert len(list((root / "versions").iterdir())) == 1
    assert seen == {("0001", 1.0), ("0002", 2.0)}


class TestCommands:
    def test_publish_versions_rollback(self, folders, tmp_path):
        np.save(tmp_path / "queries.npy", np.ones((3, DIM), np.float32))
        root = str(tmp_path / "root")
        call = CliRunner().invoke
        for folder in folders[:2]:
            done = call(app, ["index", "publish", root, str(folder), "--queries", str(tmp_path / "queries.npy")])
            assert done.exit_code == 0, done.output
        document = json.loads(call(app, ["index", "versions", root, "--json"]).stdout)
        assert document["current"] == "0002"
        assert [v["size"] for v in document["versions"]] == [SIZE, SIZE]
        assert call(app, ["index", "rollback", root]).exit_code == 0
        listed = call(app, ["index", "versions", root]).stdout
        assert [("current" in line) for line in listed.splitlines() if "000" in line] == [True, False]

    def test_mistakes_are_told(self, folders, tmp_path):
        (tmp_path / "queries.npy").write_text("none")
        (tmp_path / "nothing.npy").touch()
        np.save(tmp_path / "nan.npy", np.full((2, DIM), np.nan, np.float32))
        call = CliRunner().invoke
        for words in (
            ["versions", str(tmp_path)],
            ["rollback", str(tmp_path)],
            ["publish", str(tmp_path / "root"), str(tmp_path / "nowhere")],
            *(
                ["publish", str(tmp_path / "root"), str(folders[0]), "--queries", str(tmp_path / name)]
                for name in ("queries.npy", "nothing.npy", "nan.npy")
            ),
        ):
            assert isinstance(call(app, ["index", *words]).exception, UserError)
        assert not (tmp_path / "root").exists()
