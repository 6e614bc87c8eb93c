"""One index over a set of vectors, driven over JSON lines. Runs in headrace's environment or in the peers'.

Questions: {} -> versions; {"build": {"kind", ...}, "vectors": npy [N, D] float32, "file": path} -> {"seconds",
"peak_bytes"}: builds and saves it; {"load": {"kind", ...}, "vectors", "file"} -> {}; {"queries": npy [Q, D]} -> {}: what
is searched for from then on; {"neighbours": file, "effort", "count"} -> {}: the first `count` queries' 100 best rows,
written as npy [count, 100] int64; {"effort", "first", "count", "batch"} -> {"seconds"}: so many calls of `batch` queries.

peak_bytes is what the process came to hold, vectors included, beyond what it held before it read them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

K = 100
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

    def build(self, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._searcher.build_tree(vectors, self._setting(**asked))

    def save(self, file: str) -> None:
        self._index.save(file)

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
    _rows = 1 << 14

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._vectors = vectors

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        found = np.empty((len(queries), 0), np.int64)
        best = np.empty((len(queries), 0), np.float32)
        for start in range(0, len(self._vectors), self._rows):
            scores = queries @ self._vectors[start : start + self._rows].T
            if best.shape[1] == K:  # only what beats the worst of the best so far is looked at
                scores_here, rows_here = _above(scores, best.min(axis=1), start)
            else:
                scores_here, rows_here = scores, np.broadcast_to(start + np.arange(scores.shape[1]), scores.shape)
            best, found = np.hstack([best, scores_here]), np.hstack([found, rows_here])
            if best.shape[1] > K:
                kept = np.argpartition(best, -K, axis=1)[:, -K:]
                best, found = np.take_along_axis(best, kept, 1), np.take_along_axis(found, kept, 1)
        order = np.argsort(-best, axis=1, kind="stable")
        return np.take_along_axis(found, order, 1)


def _above(scores: np.ndarray, least: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of `scores` [Q, n], those above `least` [Q], padded to the longest with -inf, and their places."""
    query, place = np.nonzero(scores > least[:, np.newaxis])
    counts = np.bincount(query, minlength=len(scores))
    column = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(scores), int(counts.max(initial=0)))
    values, rows = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64)
    values[query, column], rows[query, column] = scores[query, place], start + place
    return values, rows


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

    def build(self, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        text = f"IVF{asked['lists']},PQ{asked['codes']}x4fs,RFlat"
        self._index = self._faiss.index_factory(vectors.shape[1], text, self._faiss.METRIC_INNER_PRODUCT)
        self._index.train(vectors)
        self._index.add(vectors)

    def save(self, file: str) -> None:
        self._faiss.write_index(self._index, file)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._faiss.read_index(file)
        self._lists = self._faiss.extract_index_ivf(self._faiss.downcast_index(self._index.base_index))

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        self._faiss.omp_set_num_threads(effort[2])
        self._lists.nprobe, self._index.k_factor = effort[0], effort[1] / K
        found: np.ndarray = self._index.search(queries, K)[1]
        return found


class FaissHnsw:
    """build: "links", "effort" (efConstruction). effort: [efSearch]."""

    packages = ("faiss-cpu",)

    def __init__(self) -> None:
        import faiss

        self._faiss = faiss

    def build(self, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._faiss.IndexHNSWFlat(vectors.shape[1], asked["links"], self._faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = asked["effort"]
        self._index.add(vectors)

    def save(self, file: str) -> None:
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

    def __init__(self) -> None:
        import hnswlib

        self._hnswlib = hnswlib

    def build(self, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._hnswlib.Index("ip", vectors.shape[1])
        self._index.init_index(len(vectors), M=asked["links"], ef_construction=asked["effort"])
        self._index.add_items(vectors, num_threads=_THREADS)

    def save(self, file: str) -> None:
        self._index.save_index(file)

    def load(self, file: str, vectors: np.ndarray, asked: dict[str, Any]) -> None:
        self._index = self._hnswlib.Index("ip", vectors.shape[1])
        self._index.load_index(file)
        self._index.set_num_threads(_THREADS)

    def search(self, queries: np.ndarray, effort: list[int]) -> np.ndarray:
        self._index.set_ef(effort[0])
        return self._index.knn_query(queries, K)[0].astype(np.int64)


KINDS: dict[str, type[Any]] = {
    "scann": ScannTree,
    "scann_exact": ScannExact,
    "blas": ExactBlas,
    "tensorflow": ExactTensorFlow,
    "faiss_ivfpq": FaissIvfPq,
    "faiss_hnsw": FaissHnsw,
    "hnswlib": Hnswlib,
}


def _memory(key: str) -> int:
    """Bytes: VmRSS (held now) or VmHWM (held at most)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _build(question: dict[str, Any]) -> dict[str, Any]:
    asked = dict(question["build"])
    index = KINDS[asked.pop("kind")]()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = _memory("VmRSS")
    vectors = np.load(question["vectors"], allow_pickle=False)
    start = time.perf_counter()
    index.build(vectors, asked)
    seconds = time.perf_counter() - start
    peak = _memory("VmHWM") - before
    index.save(question["file"])
    return {"seconds": seconds, "peak_bytes": peak}


def _timed(index: Any, queries: np.ndarray, question: dict[str, Any]) -> float:
    """Seconds of all calls."""
    size, effort = question["batch"], question["effort"]
    firsts = [(question["first"] + k * size) % (len(queries) - size + 1) for k in range(question["count"])]
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
            index.load(question["file"], np.load(question["vectors"], allow_pickle=False), asked)
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
