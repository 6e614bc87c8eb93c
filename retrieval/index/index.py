"""The index of a job's catalogue: one searcher, tuned to a recall, in a folder of its own."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from foundation.errors import UserError, damaged
from foundation.files import atomic_directory, file_entry, read_json
from inputs.ragged import Ragged
from retrieval.config import IndexConfig
from retrieval.index.basis import not_judged, spread
from retrieval.index.codes import SAMPLE as SAMPLE_OF_CODES
from retrieval.index.codes import measured_codes
from retrieval.index.exact import Denied
from retrieval.index.parts import check_entries
from retrieval.index.recall import exact_search, recall_by_leaves, tune_leaves_to_search
from retrieval.index.searcher import LEARNED_FROM, Searcher
from retrieval.index.searcher import MANIFEST as SEARCHER_MANIFEST
from retrieval.index.setting import CODES, Effort, TreeSetting

MANIFEST = "index.json"
FORMAT = 2
SAMPLE = 256  # queries that recall is measured on
TUNED_AT = 100  # neighbours that recall is measured at
_TIMED = 3  # searches of the sample, the fastest of which counts
_REMEDY = "Build the index again."


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


def setting_of(config: IndexConfig, size: int) -> TreeSetting:
    """The tree that a config asks for over `size` vectors; every leaf searched, and no codes laid out by queries, where
    it leaves that to measuring."""
    leaves = config.leaves or max(round(math.sqrt(size)), 1)
    return TreeSetting(
        leaves,
        config.leaves_to_search or leaves,
        config.reorder,
        config.anisotropic_threshold,
        config.soar,
        config.dims_per_block,
        config.reorder_precision,
        config.training_sample,
        config.avq,
        None if config.codes == "measured" else config.codes,
    ).fitted(size)


class Index:
    """Maximum inner product search over vectors [N, D] whose row is their position."""

    def __init__(self, searcher: Searcher, facts: Facts) -> None:
        self.searcher, self.facts = searcher, facts

    @classmethod
    def build(cls, vectors: np.ndarray, config: IndexConfig, seed: int, queries: np.ndarray | None = None) -> Index:
        """Builds an index over `vectors` [N, D] float32, tuned on some of `queries` [Q, D] (default: of the vectors).

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
        measured = config.brute_force_below == "measured"
        if len(vectors) < CODES or (not measured and len(vectors) < int(config.brute_force_below)):
            return cls._exact(vectors)
        given = vectors if queries is None else np.ascontiguousarray(queries, dtype=np.float32)
        given = given[np.random.default_rng(seed).permutation(len(given))[:LEARNED_FROM]]
        setting = setting_of(config, len(vectors))
        if config.codes == "measured" and queries is not None:
            setting = replace(setting, codes=measured_codes(spread(vectors, SAMPLE_OF_CODES), given, setting))
        asked, tree = given[:SAMPLE], cls._tree(vectors, config, setting, given)
        if measured:
            exact = cls._exact(vectors)
            if tree.facts.recall < config.target_recall or _seconds(exact, asked) <= _seconds(tree, asked):
                return exact
        return tree

    @classmethod
    def _exact(cls, vectors: np.ndarray) -> Index:
        size, dim = vectors.shape
        return cls(Searcher.build_exact(vectors), Facts("exact", size, dim, 0, 0, 0, 1.0))

    @classmethod
    def _tree(cls, vectors: np.ndarray, config: IndexConfig, setting: TreeSetting, given: np.ndarray) -> Index:
        (size, dim), asked = vectors.shape, given[:SAMPLE]
        searcher = Searcher.build_tree(vectors, setting, queries=not_judged(given, SAMPLE))
        assert searcher.setting is not None
        leaves, reorder = searcher.setting.leaves, searcher.setting.reorder
        wanted, _ = exact_search(vectors, asked, min(TUNED_AT, size))
        recall = recall_by_leaves(searcher, asked, wanted)
        if config.leaves_to_search is None:
            fewest, measured = tune_leaves_to_search(recall, leaves, config.target_recall)
        else:
            fewest = min(config.leaves_to_search, leaves)
            measured = recall(fewest)
        searcher.setting = searcher.setting.with_effort(Effort(fewest, reorder))
        return cls(searcher, Facts("tree_ah", size, dim, leaves, fewest, reorder, measured))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` positions for each query, best first.

        queries: [Q, D] float32. Returns (positions [Q, k] int64, scores [Q, k] float32); -1 and -inf fill up where
        fewer than k are found.
        """
        return self.searcher.search(queries, k)

    def search_excluding(self, queries: np.ndarray, k: int, excluded: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, without each query's excluded positions (rows of `excluded`): really without them.

        The index is asked for so many more, and they are taken out: nothing excluded can return. An exact index loses
        nothing by it; a tree still finds only what lies in the leaves it searches.
        """
        denied = Denied(excluded)
        positions, scores = self.search(queries, k + denied.most)
        banned = denied.among(positions) | (positions < 0)
        order = np.argsort(banned, axis=1, kind="stable")[:, :k]
        positions, scores, banned = (np.take_along_axis(a, order, axis=1) for a in (positions, scores, banned))
        return np.where(banned, -1, positions), np.where(banned, np.float32(-np.inf), scores)

    def save(self, path: str | Path) -> None:
        """Writes the index as a folder, whole or not at all."""
        with atomic_directory(path) as folder:
            self.searcher.write(folder)
            document = {
                "format": FORMAT,
                "facts": asdict(self.facts),
                "files": {SEARCHER_MANIFEST: file_entry(folder / SEARCHER_MANIFEST)},
            }
            (folder / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """Reads an index that `save` wrote.

        Raises:
          UserError: it is missing, or a file of it is missing or not the one that was written.
        """
        path = Path(path)
        facts = cls._facts(path)
        return cls(Searcher.load(path), facts)

    @classmethod
    def check(cls, path: Path) -> Facts:
        """Sees that an index is whole, without loading it; returns its facts. Raises as `load` does."""
        facts = cls._facts(path)
        Searcher.check(path)
        return facts

    @staticmethod
    def _facts(path: Path) -> Facts:
        manifest = read_json(path / MANIFEST, "the index's manifest")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"{path / MANIFEST}: not an index of format {FORMAT}.", _REMEDY)
        with damaged(path / MANIFEST, _REMEDY):
            facts, files = Facts(**manifest["facts"]), dict(manifest["files"])
        check_entries(path, files, _REMEDY)
        return facts


def _seconds(index: Index, queries: np.ndarray) -> float:
    """What answering the sample costs, at best."""
    times = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        index.search(queries, TUNED_AT)
        times.append(time.perf_counter() - start)
    return min(times)
