"""Training batches from large prepared logs, for users of the embedding layer outside the funnel: files are decoded
block by block, ahead of the step, by threads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from foundation.errors import UserError, nearest
from inputs.batches import ReadAhead
from inputs.features import Inputs
from inputs.lanes import LaneOrder, Piece
from inputs.ragged import Ragged, splits_of

Kind = Literal["id", "ids", "dense", "weights"]
"""What a column becomes: "id" [B] int64; "ids" Ragged int64; "dense" [B] float32; "weights" Ragged float32."""
Columns = Mapping[str, Kind]
RowOrder = np.ndarray | None
RAGGED: tuple[Kind, ...] = ("ids", "weights")

MAX_LANES = 16
OPEN_ROWS = 1 << 20  # of the blocks that a batch takes rows from, all together; as many more are decoded ahead
DECODERS = 2


class Log(Protocol):
    """Files of rows, cut into blocks that are decoded whole."""

    @property
    def columns(self) -> Columns:
        """The columns it reads."""

    @property
    def sizes(self) -> np.ndarray:
        """[blocks] int64, rows of each."""

    def read(self, block: int, order: RowOrder = None) -> Inputs:
        """A block's columns by name, its rows in the given order [rows]. Called by several threads at a time."""


class Stream:
    """Batches of a log. Global batch k of an epoch holds the same rows whatever the world size; a rank reads its slice
    of them (`inputs.lanes`). Any batch can be made on its own: a run resumed at k decodes the blocks of batch k first.
    """

    def __init__(
        self,
        log: Log,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        lanes: int | None = None,
        decoders: int = DECODERS,
    ) -> None:
        """batch_size: rows of a global batch; an epoch's last has what is left. shuffle: False keeps the log's order,
        and batches are then views of what was decoded. lanes: places of the log a batch takes rows from; a rank decodes
        its share of them. None: 1 in the log's order, else as many blocks as hold `OPEN_ROWS` rows, at most
        `MAX_LANES`. decoders: threads.

        Raises:
          ValueError: batch_size, lanes or decoders is not positive.
        """
        if min(batch_size, decoders, 1 if lanes is None else lanes) < 1:
            raise ValueError(f"batch_size {batch_size}, lanes {lanes}, decoders {decoders}: each must be positive")
        if lanes is None:
            lanes = int(np.clip(OPEN_ROWS // max(int(log.sizes.max()), 1), 1, MAX_LANES)) if shuffle else 1
        self.log, self.batch_size, self.lanes = log, batch_size, lanes
        self._seed, self._shuffle, self._decoders = seed, shuffle, decoders
        self._order_at, self._order = 0, self._order_of(0)
        self._decoded: dict[int, Inputs] = {}

    @property
    def columns(self) -> Columns:
        return self.log.columns

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def batch(self, epoch: int, k: int, rank: int = 0, world_size: int = 1) -> Inputs:
        """Global batch `k` of an epoch, or a rank's slice of it, decoded here and now."""
        if not 0 <= k < len(self):
            raise IndexError(f"batch {k} of {len(self)}")
        _check_rank(rank, world_size)
        if epoch != self._order_at:
            self._order_at, self._order, self._decoded = epoch, self._order_of(epoch), {}
        pieces, read = self._order.pieces(k, rank, world_size), self._reader(self._order)
        kept = self._decoded
        self._decoded = {block: kept[block] if block in kept else read(block) for block in _blocks(pieces)}
        return _joined(pieces, self._decoded.__getitem__, self.columns)

    def iterate(self, epoch: int, k: int = 0, rank: int = 0, world_size: int = 1) -> ReadAhead:
        """Batches k, k + 1, ... to the end of the epoch, made ahead by threads. Errors come where the batch would."""
        if not 0 <= k <= len(self):
            raise IndexError(f"batch {k} of {len(self)}")
        _check_rank(rank, world_size)
        return ReadAhead(self._batches(epoch, k, rank, world_size))

    def _batches(self, epoch: int, k: int, rank: int, world_size: int) -> Iterator[Inputs]:
        order = self._order_of(epoch)
        pool = ThreadPoolExecutor(self._decoders, thread_name_prefix="headrace-decoder")
        try:
            depth = math.ceil(self._decoders * world_size / order.lanes)  # enough for every decoder to have work
            ahead = _Ahead(self._reader(order), pool, depth)
            for index in range(k, len(order)):
                pieces = order.pieces(index, rank, world_size)
                ahead.want(pieces)
                yield _joined(pieces, ahead.block, self.columns)
        finally:
            pool.shutdown(cancel_futures=True)

    def _order_of(self, epoch: int) -> LaneOrder:
        return LaneOrder(self.log.sizes, self.batch_size, self._seed, epoch, self.lanes, self._shuffle)

    def _reader(self, order: LaneOrder) -> Callable[[int], Inputs]:
        return lambda block: self.log.read(block, order.row_order(block))


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}: ranks are 0 to world_size - 1")


class _Ahead:
    """The blocks of the batch at hand and, decoded meanwhile, the `depth` that come next in each of its lanes."""

    def __init__(self, read: Callable[[int], Inputs], pool: ThreadPoolExecutor, depth: int) -> None:
        self._read, self._pool, self._depth = read, pool, depth
        self._blocks: dict[int, Future[Inputs]] = {}

    def want(self, pieces: Sequence[Piece]) -> None:
        """Forgets the blocks that are past, and has those of these pieces and of the next decoded, in this order."""
        following = [int(b) for turn in range(self._depth) for p in pieces for b in p.following[turn : turn + 1]]
        wanted = list(dict.fromkeys([*_blocks(pieces), *following]))
        kept = self._blocks
        self._blocks = {b: kept[b] if b in kept else self._pool.submit(self._read, b) for b in wanted}

    def block(self, number: int) -> Inputs:
        return self._blocks[number].result()


def _blocks(pieces: Sequence[Piece]) -> list[int]:
    return [piece.block for piece in pieces]


def _joined(pieces: Sequence[Piece], block: Callable[[int], Inputs], columns: Columns) -> Inputs:
    """The rows of the pieces; of one piece, as views."""
    sources = [block(piece.block) for piece in pieces]
    batch: Inputs = {}
    for name, kind in columns.items():
        join = _joined_ragged if kind in RAGGED else _joined_flat
        batch[name] = join(pieces, [source[name] for source in sources], kind)
    return batch


def _joined_flat(pieces: Sequence[Piece], columns: Sequence[Any], kind: Kind) -> np.ndarray:
    parts = [column[piece.start : piece.stop] for piece, column in zip(pieces, columns, strict=True)]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, _dtype(kind)), *parts])


def _joined_ragged(pieces: Sequence[Piece], columns: Sequence[Any], kind: Kind) -> Ragged:
    splits = [column.row_splits[piece.start : piece.stop + 1] for piece, column in zip(pieces, columns, strict=True)]
    values = [column.values[part[0] : part[-1]] for part, column in zip(splits, columns, strict=True)]
    if len(pieces) == 1:
        return Ragged(values[0], splits[0] - splits[0][0])
    lengths = [np.empty(0, np.int64), *map(np.diff, splits)]
    return Ragged(np.concatenate([np.empty(0, _dtype(kind)), *values]), splits_of(np.concatenate(lengths)))


def _dtype(kind: Kind) -> type:
    return np.int64 if kind in ("id", "ids") else np.float32


def log_files(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], pattern: str) -> list[Path]:
    """The files of a log: one file, those of a folder that match `pattern` (by name), or a list, as given.

    Raises:
      UserError: one is missing or empty, or there is none.
    """
    if not isinstance(path, (str, os.PathLike)):
        files = [file for each in path for file in log_files(each, pattern)]
        if not files:
            raise UserError("the log is an empty list of files.", "Name its files, or their folder.")
        return files
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.", "Check the path of the log.")
    files = sorted(file for file in path.glob(pattern) if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: no {pattern} file in this folder.", "Check the path of the log.")
    for file in files:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: this file is empty.", "Get or write it again.")
    return files


def need_column(file: Path, name: str, found: Sequence[str]) -> None:
    """Raises UserError, naming the nearest, unless a file has exactly one column of this name."""
    count = list(found).count(name)
    if count == 0:
        raise UserError(f"{file}: no column '{name}'; {nearest(name, found)}", "Name the columns the log has.")
    if count > 1:
        raise UserError(f"{file}: there are {count} columns '{name}'.", "Rename all but one.")


def bad_row(file: Path, row: int, name: str, found: object, wanted: str) -> UserError:
    """The error for one row of a file, `row` counted from 0 (and told from 1)."""
    return UserError(
        f"{file}: row {row + 1:,}: {name} is {found}: {wanted} is wanted.", "Mend the row or leave it out."
    )


def need_finite(file: Path, first_row: int, name: str, column: np.ndarray | Ragged) -> None:
    """Raises UserError for the first row with a NaN or an infinity. first_row: of the column, in its file."""
    values = column.values if isinstance(column, Ragged) else column
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float32)):  # only where all are finite; the reverse is found out below
            return
    bad = ~np.isfinite(values)
    if bad.any():
        at = int(np.argmax(bad))
        row = int(np.searchsorted(column.row_splits, at, side="right")) - 1 if isinstance(column, Ragged) else at
        raise bad_row(file, first_row + row, name, values[at], "a finite number")
