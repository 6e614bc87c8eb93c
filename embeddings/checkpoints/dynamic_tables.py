"""Dynamic tables by id.

A part is saved as arrays of n + 1 rows, first the row that ids without one share, then those of its ids in the order of
the ids' hash, so that a logical bucket's stand together: bucket b's from `bucket_starts`[b] to [b + 1]. `ids`,
`frequencies`, `last_seen` [n + 1] int64; `rows` [n + 1, width]; slot variables [n + 1, width] or [n + 1]; and of the
admission's sketch, `counters` [id buckets held, cells] uint8 and `counted` [id buckets held] int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embeddings.checkpoints.arrays import REMEDY, Reader, span
from embeddings.checkpoints.columns import Source, sources
from embeddings.checkpoints.images import Image
from embeddings.checkpoints.listed import save_plain, save_rows
from embeddings.checkpoints.manifest import SavedPart
from embeddings.checkpoints.variables import put, rows_at_once, stretches, variables_of
from embeddings.sharding.held import HeldShard, buckets_of_hashes, id_hashes
from embeddings.sharding.sharded import BUCKET_BITS, BUCKETS
from embeddings.tables.dynamic import NO_ID, DynamicTable
from embeddings.tables.identity import COUNTS, IdPolicy
from foundation.errors import UserError
from foundation.progress import say
from foundation.tf import tf

_OF_IDS = ("ids", "frequencies", "last_seen")


class Taken:
    """A part at a moment: its ids and what is known of them. What it has for each is in an image of its variables."""

    def __init__(self, shard: HeldShard) -> None:
        self._shard, table = shard, _table(shard)
        state = table.id_state()
        hashes = id_hashes(state["ids"])
        order = np.argsort(hashes)
        self._plain = {
            "ids": np.concatenate([[NO_ID], state["ids"][order]]),
            "frequencies": np.concatenate([[0], state["frequencies"][order]]),
            "last_seen": np.concatenate([[0], state["last_seen"][order]]),
            "bucket_starts": 1 + np.searchsorted(buckets_of_hashes(hashes[order]), np.arange(BUCKETS + 1)),
        }
        policy = IdPolicy.of(shard.config)
        if policy.cells:
            sketched = id_buckets(shard.buckets, policy.bucket_bits)
            self._plain["counters"] = state["counters"].reshape(-1, policy.cells)[sketched]
            self._plain["counted"] = state["counted"][sketched]
        self._numbers = np.concatenate([[0], state["rows"][order]])
        self._counts = dict(zip(COUNTS, state["counts"].tolist(), strict=True))
        self._updates = int(table.updates.numpy())

    def save(self, image: Image, root: Path, path: str) -> SavedPart:
        """Writes arrays `path`/NAME below `root`."""
        shard = self._shard
        arrays = {name: save_plain(values, root, f"{path}/{name}") for name, values in self._plain.items()}
        for name, variable in variables_of(shard.held).items():
            arrays[name] = save_rows(variable, self._numbers, image, root, f"{path}/{name}")
        return SavedPart(
            shard.config.name,
            shard.columns,
            shard.buckets,
            shard.ids is not None,
            self._updates,
            arrays,
            self._counts,
            IdPolicy.of(shard.config).bucket_bits,
        )


def restore(shard: HeldShard, root: Path, parts: Sequence[SavedPart], but: Sequence[str] = ()) -> None:
    """Reads what the shard holds from the table's saved parts, all but the variables of those names.

    Raises:
      UserError: a part is missing or damaged.
    """
    table = _table(shard)
    saved_rows = [_Rows(shard, root, of_rows) for of_rows in _by_rows(shard, root, parts)]
    state = {name: np.concatenate([rows.of_ids.pop(name) for rows in saved_rows]) for name in _OF_IDS}
    table.begin_with({**state, **_sketch(shard, root, parts), "counts": counts_for(shard, parts)})
    del state  # as much as a narrow table
    for name, variable in variables_of(table).items():
        if name in but:
            continue
        first = 0
        for rows in saved_rows:
            places = rows.places if first else np.concatenate([[0], rows.places])
            found = rows.sources(name, wide=variable.shape.rank == 2)
            for stretch in stretches(len(places), rows_at_once(variable)):
                values = _read(found, variable, places[stretch])
                put(variable, np.arange(first, first + len(values)), values)
                first += len(values)
    table.updates.assign(max(part.updates for part in parts))


class _Rows:
    """The ids of some parts, that have the same rows, which a shard is to hold. places: [n] int64, where in the parts'
    arrays they stand. of_ids: [n] int64 each, by name."""

    def __init__(self, shard: HeldShard, root: Path, parts: list[SavedPart]) -> None:
        self._shard, self._root, self._parts = shard, root, parts
        starts = [Reader(root, part.arrays["bucket_starts"]).read(slice(None)) for part in parts]
        if any(not np.array_equal(starts[0], other) for other in starts):
            raise UserError(f"{root}: table '{shard.config.name}': its columns are not of the same ids.", REMEDY)
        wanted = [np.arange(starts[0][b], starts[0][b + 1]) for b in shard.buckets]
        self.places = np.concatenate([np.zeros(0, np.int64), *wanted])
        self.of_ids = {name: self._of_ids(name) for name in _OF_IDS}
        keep = np.ones(len(self.places), bool)
        if shard.ids is not None:
            keep &= np.isin(self.of_ids["ids"], shard.ids)
        if shard.but is not None:
            keep &= ~np.isin(self.of_ids["ids"], shard.but)
        if not keep.all():
            self.places = self.places[keep]
            self.of_ids = {name: values[keep] for name, values in self.of_ids.items()}

    def sources(self, name: str, wide: bool) -> list[Source]:
        """Where the saved variable `name` is read."""
        return sources(self._root, self._parts, name, self._shard.columns, wide)

    def _of_ids(self, name: str) -> np.ndarray:
        (source,) = self.sources(name, wide=False)
        return source.read(span(self.places))


def _read(found: list[Source], variable: tf.Variable, places: np.ndarray) -> np.ndarray:
    """[n, width] or [n]: rows of a saved variable."""
    out = None
    for source in found:
        values = source.read(span(places))
        if values.shape[1:] == tuple(variable.shape[1:]):
            return values
        if out is None:
            out = np.empty((len(places), *variable.shape[1:]), values.dtype)
        source.put(out, np.arange(len(places)), values)
    assert out is not None
    return out


def _by_rows(shard: HeldShard, root: Path, parts: Sequence[SavedPart]) -> list[list[SavedPart]]:
    """The parts that have something of a shard, those with columns of the same rows together.

    Raises:
      UserError: a bucket is in none, or in several, or columns are missing.
    """
    first, last = shard.columns
    rows: dict[tuple[bool, bytes], list[SavedPart]] = {}
    for part in parts:
        if part.columns[0] < last and first < part.columns[1]:
            rows.setdefault((part.hot, part.buckets.tobytes()), []).append(part)
    times = np.zeros(BUCKETS, np.int64)
    for (hot, _), of_rows in rows.items():
        columns = np.zeros(last, np.int64)
        for part in of_rows:
            columns[part.columns[0] : part.columns[1]] += 1
        if (columns[first:] != 1).any():
            raise _not_all(shard, root)
        if not hot:
            times[of_rows[0].buckets] += 1
    if (times[shard.buckets] != 1).any():
        raise _not_all(shard, root)
    return [of_rows for of_rows in rows.values() if np.isin(of_rows[0].buckets, shard.buckets).any()]


def _not_all(shard: HeldShard, root: Path) -> UserError:
    return UserError(f"{root}: table '{shard.config.name}' is not all there, or twice.", REMEDY)


def counts_for(shard: HeldShard, parts: Sequence[SavedPart]) -> np.ndarray:
    """[5] int64, in the order of COUNTS. What a part has counted goes whole to the shard that holds its first bucket,
    so that sums over all shards stay what they were; that of a hot part to the hot part, where there is one."""
    hot = shard.ids is not None
    split = hot or shard.but is not None
    total = dict.fromkeys(COUNTS, 0)
    for part in parts:
        of_all_columns = part.columns[0] <= shard.columns[0] < part.columns[1]
        if of_all_columns and part.buckets[0] in shard.buckets and (part.hot == hot or not split):
            for name, value in part.counts.items():
                total[name] += value
    total["steps"] = max(part.counts["steps"] for part in parts)
    return np.array([total[name] for name in COUNTS])


def _sketch(shard: HeldShard, root: Path, parts: Sequence[SavedPart]) -> dict[str, np.ndarray]:
    """The admission's `counters` and `counted`, flat as an id table takes them; of id buckets that are not held, zeros.
    Under another admission or capacity counting begins anew."""
    policy = IdPolicy.of(shard.config)
    counters = np.zeros((1 << policy.bucket_bits, policy.cells), np.uint8)
    counted = np.zeros(len(counters), np.int64)
    mine, anew = id_buckets(shard.buckets, policy.bucket_bits), False
    for part in parts:
        if not part.columns[0] <= shard.columns[0] < part.columns[1]:
            continue
        cells = part.arrays["counters"].shape[1] if "counters" in part.arrays else 0
        if cells != policy.cells or part.bucket_bits != policy.bucket_bits:
            anew |= max(cells, policy.cells) > 0
            continue
        there = id_buckets(part.buckets, policy.bucket_bits)
        places = np.flatnonzero(np.isin(there, mine))
        if cells and len(places):
            counters[there[places]] = Reader(root, part.arrays["counters"]).read(places)
            counted[there[places]] = Reader(root, part.arrays["counted"]).read(places)
    if anew:
        say(
            f"table '{shard.config.name}': admission or capacity is another than when it was saved; ids without a row "
            "are counted anew"
        )
    return {"counters": counters.reshape(-1), "counted": counted}


def id_buckets(buckets: np.ndarray, bits: int) -> np.ndarray:
    """Those of an id table that has 2^bits of them, of logical buckets."""
    return np.unique(buckets >> (BUCKET_BITS - bits))


def _table(shard: HeldShard) -> DynamicTable:
    assert isinstance(shard.held, DynamicTable)
    return shard.held
