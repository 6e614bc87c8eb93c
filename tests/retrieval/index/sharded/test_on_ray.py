"""Shards built by a Ray cluster: a real head of its own, on loopback."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from foundation.errors import UserError
from retrieval.index import ShardedIndex, TreeSetting, build_sharded
from retrieval.index.recall import exact_search, recall_of
from tests.retrieval.index.sources import clustered, write_npy

pytest.importorskip("ray")
pytestmark = pytest.mark.long


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a head with 2 cores, which ends with the test."""
    port, log = free_port(), tmp_path_factory.mktemp("ray") / "log"
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"]
    where = ["--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false"]
    with log.open("wb") as output:
        head = subprocess.Popen([*command, *where], stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)  # with --block it ends what it started
        head.wait(60)


def test_a_cluster_builds_what_processes_build(tmp_path, cluster):
    ids, vectors, queries = np.arange(3_000) * 3, clustered(3_000), clustered(40, seed=1)
    source = write_npy(tmp_path / "source", ids, vectors)
    wanted = exact_search(vectors, queries, 20)[0]
    for name, setting in (("exact", None), ("trees", TreeSetting(20, 20, 300, codes=8))):
        build_sharded(source, tmp_path / name, setting, 3, 2, queries=queries, ray=cluster)
        found, _ = ShardedIndex.load(tmp_path / name).search(queries, 20)
        assert recall_of(found, ids[wanted]) > 0.97
        if setting is None:
            build_sharded(source, tmp_path / "local", None, 3, 2)
            for one, other in zip(
                ShardedIndex.load(tmp_path / "local").search(queries, 20),
                ShardedIndex.load(tmp_path / name).search(queries, 20),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


def test_what_is_wrong_with_a_shard_is_told_and_the_others_stay(tmp_path, cluster):
    vectors = clustered(3_000)
    vectors[2_500, 3] = np.nan
    source = write_npy(tmp_path / "source", np.arange(3_000), vectors)
    with pytest.raises(UserError, match=r"the vector of id 2500 .* is not finite"):
        build_sharded(source, tmp_path / "out", None, 3, 1, ray=cluster)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.building" / "shard-00000").exists()


def test_a_cluster_that_is_not_there_is_told(tmp_path):
    source = write_npy(tmp_path / "source", np.arange(100), clustered(100))
    with pytest.raises(UserError, match="no cluster answers there"):
        build_sharded(source, tmp_path / "out", None, 2, 2, ray=f"127.0.0.1:{free_port()}")
