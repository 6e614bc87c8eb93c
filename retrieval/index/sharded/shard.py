"""One shard of an index: a range of a source's rows, made in bounded memory and committed by one rename."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundation.errors import UserError
from foundation.files import atomic_directory
from foundation.memory import give_back_freed_memory
from retrieval.index.basis import Basis
from retrieval.index.searcher import ASSETS, SCANN, Searcher, basis_of, load_native, write_manifest
from retrieval.index.setting import CODES, TreeSetting, reordering_in_float32
from retrieval.index.sharded.trained import CONFIG, TRAINED, kept_apart, see_finite
from retrieval.index.sources.source import Source

IDS = "ids.npy"
_DATASET = "dataset.npy"
_SAMPLE_OF_EXACT = 16  # vectors that ScaNN is shown to make its configuration of


@dataclass(frozen=True)
class Range:
    """Rows start to stop of the source."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def ranges_of(size: int, shards: int) -> list[Range]:
    """`shards` contiguous ranges, no two of which differ by more than one row."""
    cuts = [size * shard // shards for shard in range(shards + 1)]
    return [Range(start, stop) for start, stop in itertools.pairwise(cuts)]


def build_shard(source: Source, rows: Range, setting: TreeSetting | None, folder: Path, trained: Path | None) -> None:
    """Leaves `folder`: a `Searcher` over those rows and `ids.npy` [rows] int64. Exact where `setting` is None, or the
    rows are fewer than the codes of a codebook. trained: what `train` left for such a setting.

    The vectors go from the source to a file block by block, which ScaNN then reads: they are in memory once.

    Raises:
      UserError: a vector is not finite, or the source or the disk refuses.
    """
    if rows.size < CODES:
        setting = None
    basis = None if trained is None else basis_of(trained, setting)
    with atomic_directory(folder) as partial:
        raw, final = partial / "raw", partial / SCANN
        raw.mkdir()
        final.mkdir()
        np.save(partial / IDS, source.ids(rows.start, rows.stop))
        _write_vectors(source, rows, raw / _DATASET, basis)
        names = [("DATASET_NPY", _DATASET)]
        if setting is None:
            _write_exact_config(raw / _DATASET, raw)
        else:
            assert trained is not None
            for name in (CONFIG, *(name for _, name in TRAINED)):
                shutil.copy(trained / name, raw)
            names.extend(TRAINED)
        (raw / ASSETS).write_text("".join(_asset(*name) for name in names))
        native = load_native(raw)  # assigns every vector to its leaf and codes it
        give_back_freed_memory()  # what that took beside the vectors; writing takes some again
        native.serialize(str(final), True)
        if setting is not None and kept_apart(setting):
            _with_vectors(final, raw / _DATASET, setting)
        shutil.rmtree(raw)
        if basis is not None:
            basis.save(partial)
        write_manifest(partial, rows.size, source.dim, setting)


def _write_vectors(source: Source, rows: Range, path: Path, basis: Basis | None) -> None:
    """Writes the range's vectors, in the basis, to an npy file."""
    done = 0
    with path.open("wb") as file:
        shape = (rows.size, source.dim if basis is None else basis.dim)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for block in source.blocks(rows.start, rows.stop):
            see_finite(block, source, range(rows.start + done, rows.stop))
            (block if basis is None else basis.of_candidates(block)).tofile(file)
            done += len(block)
    if done != rows.size:
        raise UserError(
            f"{source.path}: {done} rows were read where there were {rows.size}.", "It changed meanwhile: build again."
        )


def _write_exact_config(vectors: Path, folder: Path) -> None:
    """ScaNN's configuration of a search that scores every vector: that which it makes of a few."""
    few = np.array(np.load(vectors, mmap_mode="r", allow_pickle=False)[:_SAMPLE_OF_EXACT])
    with tempfile.TemporaryDirectory(dir=folder) as made:
        Searcher.build_exact(few).native.serialize(made, True)
        shutil.copy(Path(made) / CONFIG, folder)


def _with_vectors(folder: Path, vectors: Path, setting: TreeSetting) -> None:
    """Gives a tree of codes alone the vectors that candidates are scored again by."""
    vectors.rename(folder / _DATASET)
    with (folder / CONFIG).open("ab") as file:
        file.write(reordering_in_float32(setting.reorder))
    with (folder / ASSETS).open("a") as file:
        file.write(_asset("DATASET_NPY", _DATASET))


def _asset(kind: str, name: str) -> str:
    return f'assets {{ asset_type: {kind} asset_path: "{name}" }}\n'
