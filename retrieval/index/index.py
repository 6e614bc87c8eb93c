"""A ScaNN index in a folder of its own: built, tuned to a recall, saved, checked when loaded, searched."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scann.scann_ops.py import scann_ops_pybind

from foundation.errors import UserError, damaged
from foundation.files import atomic_directory, file_entry, read_json
from foundation.quiet import native_stderr_hidden
from inputs.ragged import Ragged
from retrieval.config import IndexConfig
from retrieval.index.tuning import exact_search, recall_of, tune_leaves_to_search

MANIFEST = "index.json"
FORMAT = 1
SAMPLE = 256  # queries that recall is measured on
TUNED_AT = 100  # neighbours that recall is measured at
CODES = 16  # of a ScaNN codebook: it cannot be trained on fewer vectors


@dataclass(frozen=True)
class Facts:
    """What an index is. kind: "exact" or "tree_ah". recall: share of the exact top 100 found, measured at build; 1.0
    when exact. leaves, leaves_to_search: 0 when exact."""

    kind: str
    size: int
    dim: int
    leaves: int
    leaves_to_search: int
    reorder: int
    recall: float


class Index:
    """Maximum inner product search over vectors [N, D] whose row is their position."""

    def __init__(self, searcher: Any, facts: Facts) -> None:
        self._searcher, self.facts = searcher, facts

    @classmethod
    def build(cls, vectors: np.ndarray, config: IndexConfig, seed: int, queries: np.ndarray | None = None) -> Index:
        """Builds an index over `vectors` [N, D] float32, tuned on `queries` [Q, D] (default: a sample of the vectors).

        `seed` draws the sample that recall is measured on. The k-means of ScaNN's tree is not reproducible (1.4.2):
        two trees over the same vectors may differ in what they find beyond the target.

        Raises:
          UserError: a vector is not finite, or there are none.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not len(vectors):
            raise UserError("the index: there is no candidate to index.")
        if not np.isfinite(vectors).all():
            row = int(np.argmax(~np.isfinite(vectors).all(axis=1)))
            raise UserError(f"the index: the vector of item position {row} is not finite.", "Train the model again.")
        size, dim = vectors.shape
        if size < max(config.brute_force_below, CODES):
            builder = scann_ops_pybind.builder(vectors, min(size, TUNED_AT), "dot_product")
            with native_stderr_hidden():
                searcher = builder.score_brute_force().build()
            return cls(searcher, Facts("exact", size, dim, 0, 0, 0, 1.0))
        leaves = min(config.leaves or max(round(math.sqrt(size)), 1), size)
        reorder = min(config.reorder, size)
        builder = (
            scann_ops_pybind.builder(vectors, min(size, TUNED_AT), "dot_product")
            .tree(num_leaves=leaves, num_leaves_to_search=leaves, training_sample_size=min(size, 250_000))
            .score_ah(2, anisotropic_quantization_threshold=config.anisotropic_threshold)
            .reorder(reorder)
        )
        with native_stderr_hidden():
            searcher = builder.build()
        generator = np.random.default_rng(seed)
        asked = vectors if queries is None else np.ascontiguousarray(queries, dtype=np.float32)
        asked = asked[np.sort(generator.permutation(len(asked))[:SAMPLE])]
        wanted, _ = exact_search(vectors, asked, min(TUNED_AT, size))

        def recall(leaves_to_search: int) -> float:
            found, scores = searcher.search_batched(
                asked, wanted.shape[1], pre_reorder_num_neighbors=reorder, leaves_to_search=leaves_to_search
            )
            return recall_of(_padded(found, scores)[0], wanted)

        leaves_to_search, measured = tune_leaves_to_search(recall, leaves, config.target_recall)
        return cls(searcher, Facts("tree_ah", size, dim, leaves, leaves_to_search, reorder, measured))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` positions for each query, best first.

        queries: [Q, D] float32. Returns (positions [Q, k] int64, scores [Q, k] float32); -1 and -inf fill up where
        fewer than k are found.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        wanted = min(k, self.facts.size)
        if self.facts.kind == "exact":
            found, scores = self._searcher.search_batched(queries, wanted)
        else:
            found, scores = self._searcher.search_batched(
                queries,
                wanted,
                pre_reorder_num_neighbors=min(max(self.facts.reorder, wanted), self.facts.size),
                leaves_to_search=self.facts.leaves_to_search,
            )
        positions = np.full((len(queries), k), -1, np.int64)
        values = np.full((len(queries), k), -np.inf, np.float32)
        width = found.shape[1]
        positions[:, :width], values[:, :width] = _padded(found, scores)
        return positions, values

    def search_excluding(self, queries: np.ndarray, k: int, excluded: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, without each query's excluded positions (rows of `excluded`): really without them.

        The index is asked for so many more, and they are taken out: nothing excluded can return. An exact index loses
        nothing by it; a tree still finds only what lies in the leaves it searches.
        """
        most = int(excluded.lengths.max(initial=0))
        positions, scores = self.search(queries, k + most)
        rows = np.repeat(np.arange(len(queries)), positions.shape[1])
        banned = np.isin(
            rows * (self.facts.size + 1) + positions.ravel(),
            excluded.row_of_value() * (self.facts.size + 1) + excluded.values,
        ).reshape(positions.shape)
        banned |= positions < 0
        order = np.argsort(banned, axis=1, kind="stable")[:, :k]
        positions, scores, banned = (np.take_along_axis(a, order, axis=1) for a in (positions, scores, banned))
        return np.where(banned, -1, positions), np.where(banned, np.float32(-np.inf), scores)

    def save(self, path: str | Path) -> None:
        """Writes the index as a folder, whole or not at all."""
        with atomic_directory(path) as folder:
            (folder / "scann").mkdir()
            self._searcher.serialize(str(folder / "scann"), relative_path=True)
            files = {
                str(file.relative_to(folder)): file_entry(file) for file in sorted(folder.rglob("*")) if file.is_file()
            }
            (folder / MANIFEST).write_text(
                json.dumps({"format": FORMAT, "facts": asdict(self.facts), "files": files}, indent=2)
            )

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """Reads an index that `save` wrote.

        Raises:
          UserError: it is missing, or a file of it is missing or not the one that was written.
        """
        path = Path(path)
        facts = cls.check(path)
        with native_stderr_hidden():
            return cls(scann_ops_pybind.load_searcher(str(path / "scann")), facts)

    @staticmethod
    def check(path: Path) -> Facts:
        """Sees that an index is whole, without loading it; returns its facts. Raises as `load` does."""
        manifest = read_json(path / MANIFEST, "the index's manifest")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"{path / MANIFEST}: not an index of format {FORMAT}.", "Build the index again.")
        with damaged(path / MANIFEST, "Build the index again."):
            facts, files = Facts(**manifest["facts"]), dict(manifest["files"])
        for name, entry in files.items():
            file = path / name
            if not file.exists() or file_entry(file) != entry:
                raise UserError(f"{file}: this part of the index is missing or damaged.", "Build the index again.")
        return facts


def _padded(found: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ScaNN's answer with -1 and -inf where it is short: it fills up with position 0 and the score NaN."""
    missing = ~np.isfinite(scores)
    return np.where(missing, -1, found.astype(np.int64)), np.where(missing, np.float32(-np.inf), scores)
