"""What all shards of an index share: one tree's centroids and codebooks, and its basis, trained on a sample.

Shards that are trained apart divide the space more coarsely than one tree over all vectors would, each with its share
of the leaves; with one training a shard's leaf holds just those of the whole tree's leaf that lie in the shard, so that
a search finds what one tree would find, however many shards there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foundation.errors import UserError
from foundation.files import atomic_directory
from foundation.memory import give_back_freed_memory
from foundation.quiet import native_stderr_hidden
from retrieval.index.basis import Basis, not_judged
from retrieval.index.native import scann_numpy
from retrieval.index.searcher import LEARNED_FROM, usable_cores
from retrieval.index.setting import TreeSetting, blocks_of, codes_config, tree_config
from retrieval.index.sources.queries import source_rows
from retrieval.index.sources.source import Source

JUDGING = 256  # queries that recall is measured on, where there are more
TRAINED = (("AH_CENTERS", "ah_codebook.pb"), ("PARTITIONER", "serialized_partitioner.pb"))
CONFIG = "scann_config.pb"


def train(source: Source, setting: TreeSetting, queries: np.ndarray | None, folder: Path, seed: int) -> None:
    """Leaves `folder`: the files that `TRAINED` and `CONFIG` name, and, of a setting with `codes`, a `Basis`.

    queries: [Q, D], for the basis (default: the sample stands in). `seed` draws the sample.

    Raises:
      UserError: a vector of the sample is not finite, or the source or the disk refuses.
    """
    generator = np.random.default_rng(seed)
    wanted = min(setting.training_sample, source.size)
    rows = np.sort(generator.choice(source.size, wanted, replace=False, shuffle=False))
    sample = source_rows(source.path, rows)
    see_finite(sample, source, rows)
    basis, blocks = None, blocks_of(source.dim, setting.dims_per_block)
    if setting.codes is not None:
        drawn = sample[:: -(-len(sample) // LEARNED_FROM)]
        asked = drawn if queries is None else not_judged(queries, JUDGING)
        basis = Basis.learned(drawn, asked, setting.codes, setting.leaves)
        sample, blocks = basis.of_candidates(sample), basis.blocks
    config = codes_config if kept_apart(setting) else tree_config
    with native_stderr_hidden():
        native = scann_numpy()(sample, config(setting, blocks), usable_cores())
    with atomic_directory(folder) as partial:
        native.serialize(str(partial), True)
        needed = {CONFIG, *(name for _, name in TRAINED)}
        for file in partial.iterdir():
            if file.name not in needed:
                file.unlink()
        if basis is not None:
            basis.save(partial)
    del sample, native
    give_back_freed_memory()


def kept_apart(setting: TreeSetting) -> bool:
    """Whether the vectors join a tree as the file they are already: to write them ScaNN would copy them all."""
    return setting.reorder_precision == "float32"


def see_finite(vectors: np.ndarray, source: Source, rows: np.ndarray | Sequence[int]) -> None:
    """Raises a UserError that names the first of a source's vectors [n, D], at rows [n], that is not finite."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(rows[int(np.argmin(finite))])
        raise UserError(
            f"{source.path}: the vector of id {source.ids(row, row + 1)[0]} ({source.place(row)}) is not finite.",
            "Look at the model that made it; a search by inner product cannot rank it.",
        )
