"""Maximum inner product search over rows of a matrix, exact or by a ScaNN tree, in memory and in a folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError, damaged, first_line
from foundation.files import atomic_directory, read_json
from foundation.memory import use_huge_pages
from foundation.quiet import native_stderr_hidden
from retrieval.index.basis import Basis
from retrieval.index.checks import checked_queries
from retrieval.index.exact import padded
from retrieval.index.native import scann_numpy
from retrieval.index.parts import check_entries, entries_of
from retrieval.index.setting import CODES, Effort, TreeSetting, blocks_of, exact_config, tree_config

MANIFEST = "searcher.json"
SCANN = "scann"  # the folder of ScaNN's own files
ASSETS = "scann_assets.pbtxt"  # names them
_FORMAT = 1
_REMEDY = "Build the index again."


class Searcher:
    """Searches rows 0..size-1 of vectors [N, D] float32 by inner product.

    `native` is ScaNN's own object (`ScannNumpy`): its `upsert(rows or None, vectors, batch)`, `delete(rows)`,
    `rebalance(config)` and `reserve(n)` change what is searched; `size` follows. `setting` is None where every vector
    is scored. `basis`: of a tree that holds its vectors in other coordinates. Searches may run on several threads at
    once (ScaNN lets go of the interpreter); an update may not run beside anything else.
    """

    def __init__(
        self,
        native: Any,
        dim: int,
        setting: TreeSetting | None,
        threads: int | None = None,
        basis: Basis | None = None,
    ) -> None:
        self.native, self.dim, self.setting, self.basis = native, dim, setting, basis
        self.threads = usable_cores() if threads is None else threads
        native.set_num_threads(self.threads)

    @classmethod
    def build_exact(cls, vectors: np.ndarray, threads: int | None = None) -> Searcher:
        """A searcher that scores every vector, in float32. vectors: [N, D], N > 0. threads: of a batch of queries
        (default: all usable cores)."""
        return cls(_native_of(vectors, exact_config(), threads), np.shape(vectors)[1], None, threads)

    @classmethod
    def build_tree(
        cls,
        vectors: np.ndarray,
        setting: TreeSetting,
        threads: int | None = None,
        queries: np.ndarray | None = None,
    ) -> Searcher:
        """Trains a tree on vectors [N, D], N >= 16, with no more leaves and reordering than there are vectors.

        threads: of training, and of a batch of queries (default: all usable cores). queries: [Q, D] as will be asked,
        for a setting with `codes` (default: the vectors stand in). ScaNN's k-means is not reproducible (1.4.2): two
        trees over the same vectors may differ in what they find.

        Raises:
          UserError: fewer vectors than the codes of a codebook.
        """
        if len(vectors) < CODES:
            raise UserError(
                f"the index: {len(vectors)} vectors are too few for a tree; it wants {CODES}.", "Build it exact."
            )
        setting, dim = setting.fitted(len(vectors)), vectors.shape[1]
        if setting.codes is None:
            config = tree_config(setting, blocks_of(dim, setting.dims_per_block))
            return cls(_native_of(vectors, config, threads), dim, setting, threads)
        drawn = vectors[:: max(len(vectors) // LEARNED_FROM, 1)]
        basis = Basis.learned(drawn, drawn if queries is None else queries, setting.codes, setting.leaves)
        native = _native_of(basis.of_candidates(vectors), tree_config(setting, basis.blocks), threads)
        return cls(native, dim, setting, threads, basis)

    @property
    def size(self) -> int:
        return int(self.native.size())

    @property
    def exact(self) -> bool:
        return self.setting is None

    @property
    def scores_as_given(self) -> bool:
        """Whether scores are computed from the vectors' own numbers, neither rounded nor in another basis."""
        return self.setting is None or (self.setting.reorder_precision == "float32" and self.basis is None)

    def append(self, vectors: np.ndarray) -> np.ndarray:
        """Adds vectors [n, D]; returns their rows [n] int64. Nothing may search meanwhile."""
        held = vectors if self.basis is None else self.basis.of_candidates(vectors)
        return np.asarray(self.native.upsert([None] * len(held), list(held), len(held)), np.int64)

    def search(self, queries: np.ndarray, k: int, effort: Effort | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` rows for each query, best first.

        queries: [Q, D] float32. effort: instead of the setting's own (an exact searcher has none). A batch is split
        over `threads`. Returns (rows [Q, k] int64, scores [Q, k] float32); -1 and -inf fill up where fewer than k are
        found.

        Raises:
          UserError: queries of another dimension, or not finite; k below 1.
        """
        queries = checked_queries(queries, k, self.dim)
        if self.basis is not None:
            queries = self.basis.of_queries(queries)
        wanted = min(k, self.size)
        if not wanted or not len(queries):
            return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        leaves, reorder = -1, -1
        if self.setting is not None:
            effort = effort or self.setting.effort
            leaves = max(1, min(effort.leaves_to_search, self.setting.leaves))
            reorder = min(max(effort.reorder, wanted), self.size)
        # one query too goes through the batched form: it is as fast, and with SOAR the other form finds a little less
        share = max(min(-(-len(queries) // self.threads), _QUERIES_AT_ONCE), 1)
        parallel = self.threads > 1 and len(queries) > 1
        found, scores = self.native.search_batched(queries, wanted, reorder, leaves, parallel, share)
        rows = found.astype(np.int64)
        missing = ~np.isfinite(scores)  # ScaNN fills up with row 0 and the score NaN
        if missing.any():
            rows[missing], scores[missing] = -1, -np.inf
        return padded(rows, scores, k)

    def save(self, folder: str | Path) -> None:
        """Writes the searcher as a folder, whole or not at all."""
        with atomic_directory(folder) as partial:
            self.write(partial)

    def write(self, folder: Path) -> None:
        """Writes the searcher into a folder that is there, and that whoever made it commits."""
        (folder / SCANN).mkdir()
        self.native.serialize(str(folder / SCANN), True)
        if self.basis is not None:
            self.basis.save(folder)
        write_manifest(folder, self.size, self.dim, self.setting)

    @classmethod
    def load(cls, folder: str | Path, threads: int | None = None) -> Searcher:
        """Reads a searcher that `save` wrote.

        Raises:
          UserError: it is missing, or a file of it is missing or not the one that was written.
        """
        folder = Path(folder)
        size, dim, setting = cls.check(folder)
        native = load_native(folder / SCANN)
        if size * dim >= _LARGE:
            use_huge_pages()
        return cls(native, dim, setting, threads, basis_of(folder, setting))

    @staticmethod
    def check(folder: Path) -> tuple[int, int, TreeSetting | None]:
        """Sees that a searcher is whole, without loading it; returns its size, dim and setting. Raises as `load`
        does."""
        manifest = read_json(folder / MANIFEST, "the searcher's manifest")
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise UserError(f"{folder / MANIFEST}: not a searcher of format {_FORMAT}.", _REMEDY)
        with damaged(folder / MANIFEST, _REMEDY):
            size, dim = int(manifest["size"]), int(manifest["dim"])
            setting = None if manifest["setting"] is None else TreeSetting(**manifest["setting"])
            files = dict(manifest["files"])
        check_entries(folder, files, _REMEDY)
        return size, dim, setting


LEARNED_FROM = 50_000  # vectors, of a basis
_LARGE = 1 << 23  # numbers, of vectors that are worth huge pages
_QUERIES_AT_ONCE = 256  # by one thread: more of them gain nothing and fill its cache


def write_manifest(folder: Path, size: int, dim: int, setting: TreeSetting | None) -> None:
    """Writes what `Searcher.check` reads: what a searcher's folder is, and each of its files with its digest."""
    document = {
        "format": _FORMAT,
        "size": size,
        "dim": dim,
        "setting": None if setting is None else asdict(setting),
        "files": entries_of(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")


def basis_of(folder: Path, setting: TreeSetting | None) -> Basis | None:
    """Of a searcher's folder; None where its vectors are held as they are. Raises as `Searcher.load` does."""
    return None if setting is None or setting.codes is None else Basis.load(folder, _REMEDY)


def _native_of(vectors: np.ndarray, config: str, threads: int | None) -> Any:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not vectors.size:
        raise UserError("the index: there is no vector to index.", "Give at least one.")
    with native_stderr_hidden():
        native = scann_numpy()(vectors, config, threads or usable_cores())
    if vectors.size >= _LARGE:
        use_huge_pages()
    return native


def load_native(folder: Path) -> Any:
    """ScaNN's object from the folder of its files; where they lack a tree, it trains one on what they hold."""
    with native_stderr_hidden():
        try:
            return scann_numpy()(str(folder), (folder / ASSETS).read_text())
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{folder}: ScaNN cannot read this ({first_line(error)}).", _REMEDY) from error


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
