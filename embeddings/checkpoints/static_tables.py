"""Static tables by logical bucket.

A part is saved as arrays [buckets held, rows of a bucket, width], slot variables of one number a row without the last
dimension: the row of id i stands at [place of bucket i % BUCKETS among the part's, i // BUCKETS]. What is beyond the
vocabulary is zeros. So the rows of a bucket lie together whoever wrote them, and are read alone. The hot part of a
hot_cold table is saved as `ids` [n] int64, rising, and arrays [n, width]: it, not the cold part, has the truth of them.
So is, in an incremental save, what has changed since the base, of which the arrays by bucket are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embeddings.checkpoints.arrays import REMEDY, Region, SavedArray, Writer, pieces_of_files
from embeddings.checkpoints.columns import Source, sources
from embeddings.checkpoints.images import Image
from embeddings.checkpoints.listed import save_plain, save_rows
from embeddings.checkpoints.manifest import SavedPart
from embeddings.checkpoints.variables import (
    BYTES_TOGETHER,
    LAST_UPDATE,
    put,
    row_bytes,
    rows_at_once,
    stretches,
    taken,
    variables_of,
)
from embeddings.sharding.held import HeldShard
from embeddings.sharding.sharded import BUCKETS
from foundation.background import do_several_at_once
from foundation.errors import UserError
from foundation.tf import tf

_BYTES_OF_A_BUCKET_TOGETHER = 1 << 20


class Taken:
    """A part at a moment: what is not in an image of its variables."""

    def __init__(self, shard: HeldShard) -> None:
        self._shard, self._updates = shard, int(shard.held.updates.numpy())

    @property
    def tracks(self) -> bool:
        """Whether what has changed since a save can be told."""
        return self._shard.ids is None and LAST_UPDATE in _variables(self._shard)

    def save_changes(self, base: SavedPart, image: Image, root: Path, path: str) -> SavedPart:
        """Writes arrays `path`/NAME below `root`, of the rows alone that changed since `base`, which it does not
        hold."""
        shard, variables = self._shard, _variables(self._shard)
        tracked, changed = variables[LAST_UPDATE], []
        for stretch in stretches(int(tracked.shape[0]), rows_at_once(tracked)):
            numbers = np.arange(stretch.start, stretch.stop)
            changed.append(numbers[image.rows(tracked, numbers) > base.updates])
        rows = np.concatenate([np.zeros(0, np.int64), *changed])
        ids = shard.ids_of_rows()[rows]
        if shard.but is not None:  # which another part has the truth of
            rows, ids = rows[~np.isin(ids, shard.but)], ids[~np.isin(ids, shard.but)]
        order = np.argsort(ids)
        arrays = {
            name: save_rows(variable, rows[order], image, root, f"{path}/{name}")
            for name, variable in variables.items()
        }
        arrays["ids"] = save_plain(ids[order], root, f"{path}/ids")
        every = np.arange(BUCKETS)
        return SavedPart(shard.config.name, shard.columns, every, True, self._updates, arrays, changes=True)

    def save(self, image: Image, root: Path, path: str) -> SavedPart:
        """Writes arrays `path`/NAME below `root`."""
        shard = self._shard
        save_one = _save_buckets if shard.ids is None else _save_listed
        arrays = {
            name: save_one(shard, variable, image, root, f"{path}/{name}")
            for name, variable in _variables(shard).items()
        }
        buckets = np.arange(BUCKETS)
        if shard.ids is None:
            buckets = _used(shard)
        else:
            arrays["ids"] = save_plain(shard.ids, root, f"{path}/ids")
        return SavedPart(shard.config.name, shard.columns, buckets, shard.ids is not None, self._updates, arrays)


def restore(shard: HeldShard, root: Path, parts: Sequence[SavedPart], but: Sequence[str] = ()) -> None:
    """Reads what the shard holds from the table's saved parts, all but the variables of those names.

    Raises:
      UserError: a part is missing or damaged.
    """
    by_bucket, hot = [part for part in parts if not part.hot], [part for part in parts if part.hot]
    for name, variable in _variables(shard).items():
        if name in but:
            continue
        wide = variable.shape.rank == 2
        if name == LAST_UPDATE and any(name not in part.arrays for part in parts):
            now = tf.constant(max(part.updates for part in parts), tf.int64)
            variable.assign(tf.fill(variable.shape, now))  # nobody knows: all of them
            continue
        found = [_Bucketed(source) for source in sources(root, by_bucket, name, shard.columns, wide)]
        _need_all(shard, root, found, wide)
        if shard.ids is None:
            _restore_buckets(shard, variable, found)
        else:
            _restore_listed(shard, variable, found)
        for source in sources(root, hot, name, shard.columns, wide):
            _restore_hot(shard, variable, source, _ids_of(root, source.part))
    shard.held.updates.assign(max(part.updates for part in parts))


def _save_buckets(shard: HeldShard, variable: tf.Variable, image: Image, root: Path, path: str) -> SavedArray:
    buckets, size = _used(shard), _vocabulary_size(shard)
    with Writer(root, path, *_layout(shard, variable)) as writer:
        for piece in writer.pieces():
            ids = _grid(buckets[piece[0]], piece[1])
            inside = ids < size
            values = image.rows(variable, shard.rows_of(np.where(inside, ids, ids[0, 0])))
            values[~inside] = 0
            writer.write(piece, values)
        return writer.close()


def _save_listed(shard: HeldShard, variable: tf.Variable, image: Image, root: Path, path: str) -> SavedArray:
    return save_rows(variable, np.arange(int(variable.shape[0])), image, root, path)


def _layout(shard: HeldShard, variable: tf.Variable) -> tuple[list[int], str, list[int]]:
    """(shape, dtype, what of it is read as one) of a variable's array by bucket."""
    deep = -(-_vocabulary_size(shard) // BUCKETS)
    together = [max(BYTES_TOGETHER // (deep * row_bytes(variable)), 1), rows_together(shard), *variable.shape[1:]]
    return [len(_used(shard)), deep, *variable.shape[1:]], variable.dtype.name, together


class _Bucketed:
    """A source, and where in it each bucket is: -1 if it is not."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.place = np.full(BUCKETS, -1)
        self.place[source.part.buckets] = np.arange(len(source.part.buckets))


def _restore_buckets(shard: HeldShard, variable: tf.Variable, found: list[_Bucketed]) -> None:
    size, buckets = _vocabulary_size(shard), _used(shard)

    def restore(piece: Region) -> None:
        ids, values = _grid(buckets[piece[0]], piece[1]), _of_buckets(variable, found, buckets[piece[0]], piece[1])
        inside = ids < size
        full = int(inside.all(0).sum())  # the rows that every bucket of them has: no copy is made of those
        put(variable, shard.rows_of(ids[:, :full]), values[:, :full])
        if not inside.all():
            rest = inside[:, full:]
            put(variable, shard.rows_of(ids[:, full:][rest]), values[:, full:][rest])

    do_several_at_once(restore, pieces_of_files(*_layout(shard, variable)))  # whole files, if the saver held the same


def _of_buckets(variable: tf.Variable, found: list[_Bucketed], buckets: np.ndarray, stretch: slice) -> np.ndarray:
    out = None
    for each in found:
        places = each.place[buckets]
        here = np.flatnonzero(places >= 0)
        if not len(here):
            continue
        values = each.source.read(places[here], stretch)
        shape = (len(buckets), values.shape[1], *variable.shape[1:])
        if values.shape == shape:
            return values
        if out is None:
            out = np.empty(shape, values.dtype)
        each.source.put(out, here, values)
    assert out is not None
    return out


def _restore_listed(shard: HeldShard, variable: tf.Variable, found: list[_Bucketed]) -> None:
    assert shard.ids is not None
    for stretch in stretches(len(shard.ids), rows_at_once(variable)):
        ids = shard.ids[stretch]
        out = None
        for each in found:
            places = each.place[ids % BUCKETS]
            here = np.flatnonzero(places >= 0)
            if len(here):
                values = each.source.read_at(places[here], (ids // BUCKETS)[here])
                if out is None:
                    out = np.empty((len(ids), *variable.shape[1:]), values.dtype)
                each.source.put(out, here, values)
        assert out is not None
        put(variable, np.arange(stretch.start, stretch.stop), out)


def _restore_hot(shard: HeldShard, variable: tf.Variable, source: Source, ids: np.ndarray) -> None:
    wanted = np.isin(ids % BUCKETS, shard.buckets)
    if shard.ids is not None:
        wanted &= np.isin(ids, shard.ids)
    if shard.but is not None:
        wanted &= ~np.isin(ids, shard.but)
    places = np.flatnonzero(wanted)
    for stretch in stretches(len(places), rows_at_once(variable)):
        rows, values = shard.rows_of(ids[places[stretch]]), source.read(places[stretch])
        if values.shape[1:] != tuple(variable.shape[1:]):  # it has but some of the columns
            whole = taken(variable, rows)
            source.put(whole, np.arange(len(rows)), values)
            values = whole
        put(variable, rows, values)


def _ids_of(root: Path, part: SavedPart) -> np.ndarray:
    (source,) = sources(root, [part], "ids", part.columns, wide=False)
    return source.read(slice(None))


def _need_all(shard: HeldShard, root: Path, found: list[_Bucketed], wide: bool) -> None:
    """Raises UserError unless every row and column comes from one source."""
    times = np.zeros((BUCKETS, shard.columns[1] - shard.columns[0] if wide else 1), np.int64)
    for each in found:
        times[each.source.part.buckets, each.source.into or slice(None)] += 1
    if (times[_used(shard)] != 1).any():
        raise UserError(f"{root}: table '{shard.config.name}' is not all there, or twice.", REMEDY)


def rows_together(shard: HeldShard) -> int:
    """Of one bucket, read as one: the same for all parts and precisions of a table, so that none is read twice."""
    return max(_BYTES_OF_A_BUCKET_TOGETHER // (4 * shard.config.dim), 1)


def _grid(buckets: np.ndarray, stretch: slice) -> np.ndarray:
    """[buckets, rows] int64: the ids."""
    return buckets[:, np.newaxis] + BUCKETS * np.arange(stretch.start, stretch.stop)


def _used(shard: HeldShard) -> np.ndarray:
    """The buckets of a shard that have ids."""
    buckets = shard.buckets if shard.ids is None else np.unique(shard.ids % BUCKETS)
    return buckets[buckets < _vocabulary_size(shard)]


def _vocabulary_size(shard: HeldShard) -> int:
    assert shard.config.vocabulary_size is not None
    return shard.config.vocabulary_size


def _variables(shard: HeldShard) -> dict[str, tf.Variable]:
    return variables_of(shard.held)
