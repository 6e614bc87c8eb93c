"""One index over a set of vectors, driven over JSON lines. Runs in headrace's environment or in the peers'.

Questions ("source": folder with vectors.npy [N, D] float32): {} -> versions; {"build": {"kind", ...}, "source", "file"}
-> {"seconds", "peak_bytes"}: builds an index from the source and leaves it at `file`; {"load": {"kind", ...}, "source",
"file"} -> {}; {"queries": npy [Q, D]} -> {}: what is searched for from then on; {"neighbours": file, "effort", "count"}
-> {}: what the first `count` queries find, written as npy [count, 100] int64; {"effort", "first", "count", "batch"} ->
{"seconds"}: so many calls, `batch` queries each.

peak_bytes is what the process came to hold at most, vectors included, less what it held before it read them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

K = 100
_JUDGED = 1_000  # queries that recall is measured on, as benchmarks/index_data.py has it: nothing learns from them
_UNTIMED = 5  # calls at most before those that are timed
_THREADS = len(os.sched_getaffinity(0))


class ScannTree:
    """headrace's own: a tree by ScaNN. build: a `TreeSetting`'s fields. effort: [leaves_to_search, reorder]."""

    packages = ("scann",)

    def __init__(self) -> None:
        from retrieval.index.native import scann_numpy
        from retrieval.index.searcher import Searcher
        from retrieval.index.setting import Effort, TreeSetting

        scann_numpy()
        self._searcher, self._setting, self._effort = Searcher, TreeSetting, Effort

    def build(self, source: str, asked: dict[str, Any], file: str) -> None:
        from retrieval.index.sharded.shard import Range, build_shard
        from retrieval.index.sharded.trained import train
        from retrieval.index.sources.source import open_source

        opened = open_source(source)
        setting = self._setting(**asked).fitted(opened.size)
        queries = np.load(Path(source) / "queries.npy", allow_pickle=False)[_JUDGED:]
        with tempfile.TemporaryDirectory(dir=Path(file).parent) as trained:
            train(opened, setting, queries if len(queries) else None, Path(trained) / "tree", seed=0)
            build_shard(opened, Range(0, opened.size), setting, Path(file), Path(trained) / "tree")

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._searcher.load(file)

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        found: np.ndarray = self._index.search(queries, K, self._effort(*effort))[0]
        return found


class ScannExact:
    """headrace's own for small catalogues: every vector scored."""

    packages = ("scann",)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        from retrieval.index.searcher import Searcher

        self._index = Searcher.build_exact(vectors)

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        return self._index.search(queries, K)[0]


class ExactBlas:
    """BLAS, by blocks that stay in the caches, and numpy's partition."""

    packages = ("numpy",)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        from benchmarks.index_exact import exact_search

        self._vectors, self._search = vectors, exact_search

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        return self._search(self._vectors, queries, K)


class ExactTensorFlow:
    """`tf.math.top_k(tf.matmul(...))` in a `tf.function`."""

    packages = ("tensorflow",)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        from foundation.tf import tf

        held = tf.constant(vectors)
        self._search = tf.function(
            lambda queries: tf.math.top_k(tf.matmul(queries, held, transpose_b=True), K).indices, reduce_retracing=True
        )

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        found: np.ndarray = self._search(queries).numpy()
        return found


class FaissIvfPq:
    """IVF, 4-bit product quantisation scanned by SIMD shuffles, refined from the vectors. build: "lists", "codes" (of 4
    bits a vector). effort: [lists probed, candidates refined, threads]."""

    packages = ("faiss-cpu",)

    def __init__(self) -> None:
        import faiss

        self._faiss = faiss

    def text(self, asked: dict[str, Any]) -> str:
        """As faiss' factory reads it."""
        return f"IVF{asked['lists']},PQ{asked['codes']}x4fs,RFlat"

    def build(self, source: str, asked: dict[str, Any], file: str) -> None:
        vectors = _vectors_of(source)
        self._index = self._faiss.index_factory(vectors.shape[1], self.text(asked), self._faiss.METRIC_INNER_PRODUCT)
        self._index.train(vectors)
        self._index.add(vectors)
        self._faiss.write_index(self._index, file)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._faiss.read_index(file)
        self._lists = self._faiss.extract_index_ivf(self._faiss.downcast_index(self._index.base_index))

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        self._faiss.omp_set_num_threads(effort[2])
        self._lists.nprobe, self._index.k_factor = effort[0], effort[1] / K
        found: np.ndarray = self._index.search(queries, K)[1]
        return found


class FaissIvfFlat(FaissIvfPq):
    """IVF over the vectors themselves. build: "lists". effort: [lists probed, threads]."""

    def text(self, asked: dict[str, Any]) -> str:
        return f"IVF{asked['lists']},Flat"

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._faiss.read_index(file)

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        self._faiss.omp_set_num_threads(effort[1])
        self._index.nprobe = effort[0]
        found: np.ndarray = self._index.search(queries, K)[1]
        return found


class FaissHnsw:
    """build: "links", "effort" (efConstruction). effort: [efSearch]."""

    packages = ("faiss-cpu",)

    def __init__(self) -> None:
        import faiss

        self._faiss = faiss

    def build(self, source: str, asked: dict[str, Any], file: str) -> None:
        vectors = _vectors_of(source)
        self._index = self._faiss.IndexHNSWFlat(vectors.shape[1], asked["links"], self._faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = asked["effort"]
        self._index.add(vectors)
        self._faiss.write_index(self._index, file)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._faiss.read_index(file)

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        self._index.hnsw.efSearch = effort[0]
        found: np.ndarray = self._index.search(queries, K)[1]
        return found


class Hnswlib:
    """build: "links" (M), "effort" (ef_construction). effort: [ef]."""

    packages = ("hnswlib",)
    space = "ip"

    def __init__(self) -> None:
        import hnswlib

        self._hnswlib = hnswlib

    def held(self, vectors: np.ndarray) -> np.ndarray:
        """What the index is of."""
        return vectors

    def asked_for(self, queries: np.ndarray) -> np.ndarray:
        """What it is asked for."""
        return queries

    def build(self, source: str, asked: dict[str, Any], file: str) -> None:
        vectors = self.held(_vectors_of(source))
        self._index = self._hnswlib.Index(self.space, vectors.shape[1])
        self._index.init_index(len(vectors), M=asked["links"], ef_construction=asked["effort"])
        self._index.add_items(vectors, num_threads=_THREADS)
        self._index.save_index(file)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._hnswlib.Index(self.space, self.asked_for(vectors[:1]).shape[1])
        self._index.load_index(file)
        self._index.set_num_threads(_THREADS)

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        self._index.set_ef(effort[0])
        return self._index.knn_query(self.asked_for(queries), K)[0].astype(np.int64)


class HnswlibReduced(Hnswlib):
    """The same, of the inner product reduced to L2 by one more dimension (Bachrach et al., RecSys 2014)."""

    space = "l2"

    def held(self, vectors: np.ndarray) -> np.ndarray:
        squares = np.square(vectors).sum(axis=1, keepdims=True)
        return np.hstack([vectors, np.sqrt(squares.max() - squares)])

    def asked_for(self, queries: np.ndarray) -> np.ndarray:
        return np.pad(queries, ((0, 0), (0, 1)))


KINDS: dict[str, type[Any]] = {
    "scann": ScannTree,
    "scann_exact": ScannExact,
    "blas": ExactBlas,
    "tensorflow": ExactTensorFlow,
    "faiss_ivfpq": FaissIvfPq,
    "faiss_ivfflat": FaissIvfFlat,
    "faiss_hnsw": FaissHnsw,
    "hnswlib_l2": HnswlibReduced,
    "hnswlib": Hnswlib,
}


def _memory(key: str) -> int:
    """Bytes: VmRSS (held now) or VmHWM (held at most)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _vectors_of(source: str) -> np.ndarray:
    return np.load(Path(source) / "vectors.npy", allow_pickle=False)


def _build(question: dict[str, Any]) -> dict[str, Any]:
    asked = dict(question["build"])
    index = KINDS[asked.pop("kind")]()  # imports what building needs
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = _memory("VmRSS")
    start = time.perf_counter()
    index.build(question["source"], asked, question["file"])
    return {"seconds": time.perf_counter() - start, "peak_bytes": _memory("VmHWM") - before}


def _timed(index: Any, queries: np.ndarray, question: dict[str, Any]) -> float:
    """Seconds of all calls, after some that are not timed: other processes have had the caches."""
    size, effort = question["batch"], question["effort"]
    firsts = [(question["first"] + k * size) % (len(queries) - size + 1) for k in range(question["count"])]
    for first in firsts[:_UNTIMED]:
        index.search(queries[len(queries) - size - first :][:size], effort)
    start = time.perf_counter()
    for first in firsts:
        index.search(queries[first : first + size], effort)
    return time.perf_counter() - start


def main() -> None:
    index: Any = None
    queries = np.empty((0, 0), np.float32)
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "build" in question:
            answer = _build(question)
        elif "load" in question:
            asked = dict(question["load"])
            index = KINDS[asked.pop("kind")]()
            index.load(question["file"], _vectors_of(question["source"]), asked)
        elif "queries" in question:
            queries = np.load(question["queries"], allow_pickle=False)
        elif "neighbours" in question:
            found = index.search(queries[: question["count"]], question["effort"])
            np.save(question["neighbours"], np.asarray(found, np.int64))
        elif "effort" in question:
            answer = {"seconds": _timed(index, queries, question)}
        else:
            answer = {package: version(package) for package in KINDS[sys.argv[1]].packages}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
