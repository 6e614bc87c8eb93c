"""One shard of an index: a range of a source's rows, made in bounded memory and committed by one rename."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundation.errors import UserError
from foundation.files import atomic_directory
from foundation.memory import give_back_freed_memory
from foundation.quiet import native_stderr_hidden
from retrieval.index.basis import Basis
from retrieval.index.native import scann_numpy
from retrieval.index.searcher import ASSETS, SCANN, Searcher, load_native, usable_cores, write_manifest
from retrieval.index.setting import CODES, TreeSetting, blocks_of, codes_config, reordering_in_float32, tree_config
from retrieval.index.sources.source import Source

IDS = "ids.npy"
_TRAINED = (("AH_CENTERS", "ah_codebook.pb"), ("PARTITIONER", "serialized_partitioner.pb"))
_CONFIG, _DATASET = "scann_config.pb", "dataset.npy"
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


def build_shard(
    source: Source, rows: Range, setting: TreeSetting | None, folder: Path, seed: int, basis: Basis | None = None
) -> None:
    """Leaves `folder`: a `Searcher` over those rows and `ids.npy` [rows] int64. Exact where `setting` is None, or the
    rows are fewer than the codes of a codebook. basis: of a setting with `codes`, the same for all shards.

    The vectors go from the source to a file block by block; a tree is trained on a sample of them, drawn by `seed`,
    and only then does ScaNN read the file: the vectors are in memory once, and never beside what trains.

    Raises:
      UserError: a vector is not finite, or the source or the disk refuses.
    """
    if setting is None or rows.size < CODES:
        setting = basis = None
    if setting is not None:
        setting = setting.fitted(rows.size)
    with atomic_directory(folder) as partial:
        raw, trained, final = (partial / name for name in ("raw", "trained", SCANN))
        for each in (raw, trained, final):
            each.mkdir()
        ids = source.ids(rows.start, rows.stop)
        np.save(partial / IDS, ids)
        wanted = min(rows.size, _SAMPLE_OF_EXACT if setting is None else setting.training_sample)
        sample = _written(source, rows, ids, raw / _DATASET, _drawn(rows, wanted, seed), basis)
        del ids
        _trained(sample, setting, basis, trained)
        del sample
        give_back_freed_memory()
        names = [("DATASET_NPY", _DATASET)]
        for kind, name in () if setting is None else _TRAINED:
            (trained / name).rename(raw / name)
            names.append((kind, name))
        (trained / _CONFIG).rename(raw / _CONFIG)
        shutil.rmtree(trained)
        (raw / ASSETS).write_text("".join(_asset(*name) for name in names))
        native = load_native(raw)  # assigns every vector to its leaf and codes it
        give_back_freed_memory()  # what that took beside the vectors; writing takes some again
        native.serialize(str(final), True)
        if _kept_apart(setting):
            _with_vectors(final, raw / _DATASET, setting)
        shutil.rmtree(raw)
        if basis is not None:
            basis.save(partial)
        write_manifest(partial, rows.size, source.dim, setting)


def _drawn(rows: Range, wanted: int, seed: int) -> np.ndarray:
    """Which rows of a range train: [wanted] int64, rising, counted from its start."""
    if wanted == rows.size:
        return np.arange(rows.size)
    generator = np.random.default_rng([seed, rows.start, rows.stop])
    return np.sort(generator.choice(rows.size, wanted, replace=False, shuffle=False))


def _written(
    source: Source, rows: Range, ids: np.ndarray, path: Path, drawn: np.ndarray, basis: Basis | None
) -> np.ndarray:
    """Writes the range's vectors, in the basis, to an npy file; returns those at `drawn` [n, E]."""
    dim = source.dim if basis is None else basis.dim
    sample = np.empty((len(drawn), dim), np.float32)
    done = 0
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows.size, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in source.blocks(rows.start, rows.stop):
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                bad = done + int(np.argmin(finite))
                raise UserError(
                    f"{source.path}: the vector of id {ids[bad]} ({source.place(rows.start + bad)}) is not finite.",
                    "Look at the model that made it; a search by inner product cannot rank it.",
                )
            if basis is not None:
                block = basis.of_candidates(block)
            first, last = np.searchsorted(drawn, [done, done + len(block)])
            sample[first:last] = block[drawn[first:last] - done]
            block.tofile(file)
            done += len(block)
    if done != rows.size:
        raise UserError(
            f"{source.path}: {done} rows were read where there were {rows.size}.", "It changed meanwhile: build again."
        )
    return sample


def _trained(sample: np.ndarray, setting: TreeSetting | None, basis: Basis | None, folder: Path) -> None:
    """Writes what ScaNN learns from the sample, and its configuration."""
    if setting is None:
        native = Searcher.build_exact(sample).native
    else:
        config = codes_config if _kept_apart(setting) else tree_config
        blocks = blocks_of(sample.shape[1], setting.dims_per_block) if basis is None else basis.blocks
        with native_stderr_hidden():
            native = scann_numpy()(sample, config(setting, blocks), usable_cores())
    native.serialize(str(folder), True)


def _kept_apart(setting: TreeSetting | None) -> bool:
    """Whether the vectors join the tree as the file they are already: to write them ScaNN would copy them all."""
    return setting is not None and setting.reorder_precision == "float32"


def _with_vectors(folder: Path, vectors: Path, setting: TreeSetting | None) -> None:
    """Gives a tree of codes alone the vectors that candidates are scored again by."""
    assert setting is not None
    vectors.rename(folder / _DATASET)
    with (folder / _CONFIG).open("ab") as file:
        file.write(reordering_in_float32(setting.reorder))
    with (folder / ASSETS).open("a") as file:
        file.write(_asset("DATASET_NPY", _DATASET))


def _asset(kind: str, name: str) -> str:
    return f'assets {{ asset_type: {kind} asset_path: "{name}" }}\n'
