"""The sets of vectors that indexes are measured on, made once and kept in a folder outside the repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_exact import exact_search
from benchmarks.peers import ROOT
from foundation.files import atomic_directory

FOLDER = "HEADRACE_BENCHMARK_DATA"  # the variable that names the folder
JUDGED = 1_000  # queries that recall is measured on
K = 100
_VECTORS_PER_CLUSTER = 500
_SPREAD = 0.5  # of a cluster, in norms of its centre
_BLOCK = 1 << 16  # vectors drawn at once


def data_folder() -> Path:
    """Where sets and built indexes are kept: $HEADRACE_BENCHMARK_DATA, or a folder in the system's temporary one."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else Path(tempfile.gettempdir()) / "headrace-benchmark-data"


@dataclass(frozen=True)
class VectorSet:
    """A folder that `headrace index build` takes as a source: ids.npy [N] int64 (0..N-1), vectors.npy [N, D] float32;
    and queries.npy [Q, D], neighbours.npy [JUDGED, 100] int64: the rows that the first queries should find."""

    name: str
    folder: Path

    @property
    def vectors(self) -> Path:
        return self.folder / "vectors.npy"

    @property
    def queries(self) -> Path:
        return self.folder / "queries.npy"

    def neighbours(self) -> np.ndarray:
        return np.load(self.folder / "neighbours.npy", allow_pickle=False)

    def shape(self) -> tuple[int, int]:
        size, dim = np.load(self.vectors, mmap_mode="r", allow_pickle=False).shape
        return size, dim


def clustered(size: int, dim: int, queries: int) -> VectorSet:
    """Vectors of norm 1 around the centres of size / 500 clusters, some large and some small (Dirichlet(1) shares). A
    direction's variance falls as 1 over its rank, as trained embeddings' does. Queries are drawn as the vectors are."""
    recipe = {"kind": "clustered", "size": size, "dim": dim, "queries": queries, "version": 1}
    folder = _folder(f"clustered-{size}x{dim}", recipe)
    if not folder.exists():
        generator = np.random.default_rng(0)
        turn = np.linalg.qr(generator.standard_normal((dim, dim)))[0].astype(np.float32)
        scale = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
        scale /= np.linalg.norm(scale)
        clusters = max(size // _VECTORS_PER_CLUSTER, 2)
        centres = generator.standard_normal((clusters, dim), np.float32) * scale
        shares = generator.dirichlet(np.ones(clusters))

        def drawn(count: int) -> np.ndarray:
            vectors = np.empty((count, dim), np.float32)
            for start in range(0, count, _BLOCK):
                part = vectors[start : start + _BLOCK]
                noise = generator.standard_normal(part.shape, np.float32) * scale
                part[:] = (
                    centres[generator.choice(clusters, len(part), p=shares)] + np.float32(_SPREAD) * noise
                ) @ turn
                part /= np.linalg.norm(part, axis=1, keepdims=True)
            return vectors

        _write(folder, drawn(size), drawn(queries))
    return VectorSet(folder.name, folder)


def tower(world: Mapping[str, Any], dim: int, queries: int) -> VectorSet:
    """The catalogue and users of a simulated world, in the vectors of a two-tower model trained on its log
    (`trained_tower`)."""
    recipe = {"kind": "tower", "world": dict(world), "dim": dim, "queries": queries, "version": 1}
    folder = _folder(f"tower-{world['items']}x{dim}", recipe)
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as made:
            asked = {"world": dict(world), "dim": dim, "queries": queries, "logs": str(folder.parent / "worlds")}
            words = [sys.executable, "-W", "ignore", "-m", "benchmarks.trained_tower", f"{made}/vectors"]
            subprocess.run([*words, json.dumps(asked)], cwd=ROOT, check=True)  # TensorFlow's memory goes with it
            vectors, asked_for = (np.load(f"{made}/vectors/{name}.npy") for name in ("vectors", "queries"))
            _write(folder, vectors, asked_for)
    return VectorSet(folder.name, folder)


def _folder(name: str, recipe: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]
    return data_folder() / f"{name}-{digest}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(folder: Path, vectors: np.ndarray, queries: np.ndarray) -> None:
    _made(folder.parent)
    with atomic_directory(folder) as partial:
        np.save(partial / "ids.npy", np.arange(len(vectors)))
        np.save(partial / "vectors.npy", vectors)
        np.save(partial / "queries.npy", queries)
        np.save(partial / "neighbours.npy", exact_search(vectors, queries[:JUDGED], min(K, len(vectors))))
