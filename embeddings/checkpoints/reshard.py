"""Tables of a checkpoint laid anew, for other ranks: read and written by bucket, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embeddings.checkpoints.arrays import Reader, SavedArray, Writer
from embeddings.checkpoints.dynamic_tables import counts_for, id_buckets
from embeddings.checkpoints.listed import save_plain
from embeddings.checkpoints.manifest import Manifest, Saved, SavedPart, SavedTable, rank_folder, table_folder
from embeddings.checkpoints.saved_rows import (
    SavedDynamicRows,
    SavedRows,
    SavedStaticRows,
    as_precision,
    opened,
    precision_dtype,
)
from embeddings.checkpoints.static_tables import rows_together
from embeddings.checkpoints.variables import BYTES_TOGETHER
from embeddings.config import TableConfig
from embeddings.sharding.default import default_plan
from embeddings.sharding.held import HeldShard, buckets_of_hashes, id_hashes
from embeddings.sharding.plan import ShardingPlan
from embeddings.sharding.sharded import BUCKETS, layout
from embeddings.tables.dynamic import NO_ID
from embeddings.tables.identity import COUNTS, IDS_PER_BUCKET, MOST_BUCKET_BITS
from foundation.errors import UserError
from foundation.files import disk_errors

Advance = Callable[[int], None]


def reshard_tables(
    folder: str | Path,
    out: str | Path,
    plan: ShardingPlan | int,
    precision: str | None = None,
    slot_precision: str | None = None,
    advance: Advance = lambda bytes_written: None,
) -> None:
    """Writes the tables that `save_tables` wrote in `folder` as the ranks of a plan would, below `out`. plan: a number
    of ranks: as a layer without a plan lays them. precision, slot_precision: of rows and of floating slot variables;
    None: as they are. The values are the same by id, rounded to the nearest where the precision is narrower.

    Raises:
      UserError: what is read is damaged, the plan is not of these tables, the disk is full.
    """
    saved, root = Saved.read(Path(folder)), Path(out)
    if slot_precision == "float16" and any(table.optimizer == "Adam" for table in saved.tables.values()):
        raise UserError("Adam's velocity is too small a number for float16.", "Take bfloat16 or float32 for slots.")
    configs = {name: _config(table, saved.parts_of(name)) for name, table in saved.tables.items()}
    plan = default_plan(configs.values(), plan) if isinstance(plan, int) else plan
    if plan.tables.keys() != configs.keys():
        raise UserError(
            f"{folder}: the sharding plan is of tables {', '.join(sorted(plan.tables))}; the checkpoint has "
            f"{', '.join(sorted(configs))}.",
            "Give a plan of these tables.",
        )
    parts: list[list[SavedPart]] = [[] for _ in range(plan.ranks)]
    for number, (name, config) in enumerate(configs.items()):
        rows = opened(saved, name)
        target = _Target(rows, root, table_folder(number, name), advance)
        target.precisions = {"rows": precision, **dict.fromkeys(rows.slots, slot_precision)}
        for shard in _shards(config, plan):
            with disk_errors(root):
                written = target.write(shard)
            if written is not None:
                parts[shard.rank].append(written)
    for rank, of_rank in enumerate(parts):
        with disk_errors(root):
            (root / rank_folder(rank)).mkdir(parents=True, exist_ok=True)
        Manifest(rank, plan.ranks, list(saved.tables.values()), of_rank).write(root)


def _config(table: SavedTable, parts: Sequence[SavedPart]) -> TableConfig:
    """A table's configuration, as far as a layout asks for it."""
    bits = parts[0].bucket_bits if parts else 0
    bounded = table.vocabulary_size is None and bits < MOST_BUCKET_BITS
    return TableConfig(
        table.name, table.vocabulary_size, table.dim, capacity=IDS_PER_BUCKET << bits if bounded else None
    )


def _shards(config: TableConfig, plan: ShardingPlan) -> Iterator[HeldShard]:
    """What ranks hold of a table, part by part, that which all hold once."""
    try:
        parts = layout(config, plan.tables[config.name])
    except ValueError as error:
        raise UserError(f"the sharding plan does not fit: {error}.", "Give a plan of these tables.") from error
    listed = next((ids for _, _, ids in parts if ids is not None), None)
    for number, (columns, owners, ids) in enumerate(parts):
        but = listed if ids is None else None
        for rank in [0] if owners is None else np.unique(owners).tolist():
            buckets = np.arange(BUCKETS) if owners is None else np.flatnonzero(owners == rank)
            # there is no table behind it, which only savers and restorers of one ask for
            yield HeldShard(config, rank, number, columns, buckets, ids, but, owners is None, None)  # type: ignore[arg-type]


@dataclass
class _Target:
    """Where a table's parts are written. folder: the table's, below a rank's."""

    rows: SavedRows
    root: Path
    folder: str
    advance: Advance

    def __post_init__(self) -> None:
        self.precisions: dict[str, str | None] = {}

    def write(self, shard: HeldShard) -> SavedPart | None:
        """None: there is nothing of it."""
        path = f"{rank_folder(shard.rank)}/{self.folder}/{shard.part}"
        if isinstance(self.rows, SavedStaticRows):
            return self._static(self.rows, shard, path)
        assert isinstance(self.rows, SavedDynamicRows)
        return self._dynamic(self.rows, shard, path)

    def _static(self, rows: SavedStaticRows, shard: HeldShard, path: str) -> SavedPart | None:
        if shard.ids is not None:
            arrays = {name: self._listed(name, shard.ids, shard, path) for name in rows.variables}
            arrays["ids"] = save_plain(shard.ids, self.root, f"{path}/ids")
            return SavedPart(rows.table.name, shard.columns, shard.buckets, True, rows.updates, arrays)
        buckets = shard.buckets[shard.buckets < rows.count]
        if not len(buckets):
            return None
        arrays = {name: self._bucketed(name, buckets, shard, path) for name in rows.variables}
        return SavedPart(rows.table.name, shard.columns, buckets, False, rows.updates, arrays)

    def _bucketed(self, name: str, buckets: np.ndarray, shard: HeldShard, path: str) -> SavedArray:
        dtype, width, row_bytes = self._form(name, shard)
        size = self.rows.count
        deep = -(-size // BUCKETS)
        together = [max(BYTES_TOGETHER // (deep * row_bytes), 1), rows_together(shard), *width]
        with Writer(self.root, f"{path}/{name}", [len(buckets), deep, *width], dtype, together) as writer:
            for piece in writer.pieces():
                ids = buckets[piece[0], np.newaxis] + BUCKETS * np.arange(piece[1].start, piece[1].stop)
                values = np.zeros((*ids.shape, *width), precision_dtype(dtype))
                for some in np.array_split(np.arange(len(ids)), max(ids.size // self.rows.rows_at_once, 1)):
                    inside = ids[some] < size
                    values[some[:, np.newaxis].repeat(ids.shape[1], 1)[inside], np.nonzero(inside)[1]] = self._values(
                        name, ids[some][inside], shard, dtype
                    )
                self.advance(values.nbytes)
                writer.write(piece, values)
            return writer.close()

    def _listed(self, name: str, ids: np.ndarray, shard: HeldShard, path: str) -> SavedArray:
        dtype, width, row_bytes = self._form(name, shard)
        together = [max(BYTES_TOGETHER // row_bytes, 1), *width]
        with Writer(self.root, f"{path}/{name}", [len(ids), *width], dtype, together) as writer:
            for piece in writer.pieces():
                values = self._values(name, ids[piece[0]], shard, dtype)
                self.advance(values.nbytes)
                writer.write(piece, np.ascontiguousarray(values))
            return writer.close()

    def _dynamic(self, rows: SavedDynamicRows, shard: HeldShard, path: str) -> SavedPart:
        ids = rows.ids_of(shard.buckets)
        if shard.ids is not None:
            ids = ids[np.isin(ids, shard.ids)]
        if shard.but is not None:
            ids = ids[~np.isin(ids, shard.but)]
        starts = 1 + np.searchsorted(buckets_of_hashes(id_hashes(ids)), np.arange(BUCKETS + 1))
        listed = np.concatenate([[NO_ID], ids])
        arrays = {
            name: save_plain(values, self.root, f"{path}/{name}")
            for name, values in (("ids", listed), ("bucket_starts", starts))
        }
        arrays.update((name, self._listed(name, listed, shard, path)) for name in rows.variables)
        bits = rows.parts[0].bucket_bits
        arrays.update(
            (name, save_plain(values, self.root, f"{path}/{name}"))
            for name, values in _sketch(rows, shard, bits).items()
        )
        counts = dict(zip(COUNTS, counts_for(shard, rows.parts).tolist(), strict=True))
        hot = shard.ids is not None
        return SavedPart(rows.table.name, shard.columns, shard.buckets, hot, rows.updates, arrays, counts, bits)

    def _values(self, name: str, ids: np.ndarray, shard: HeldShard, dtype: str) -> np.ndarray:
        return as_precision(self.rows.read(name, ids, shard.columns), dtype)

    def _form(self, name: str, shard: HeldShard) -> tuple[str, list[int], int]:
        """A variable's dtype here, its dimensions after the rows', and a row's bytes."""
        variable = self.rows.variables[name]
        floating = variable.dtype in ("float32", "bfloat16", "float16")
        dtype = (self.precisions.get(name) if floating else None) or variable.dtype
        width = [shard.columns[1] - shard.columns[0]] if variable.wide else []
        return dtype, width, precision_dtype(dtype).itemsize * int(np.prod(width))


def _sketch(rows: SavedDynamicRows, shard: HeldShard, bits: int) -> dict[str, np.ndarray]:
    """`counters` and `counted` of the admission's sketch, of the id buckets of a shard; {}: there is none."""
    if "counters" not in rows.parts[0].arrays:
        return {}
    mine = id_buckets(shard.buckets, bits)
    counters = np.zeros((len(mine), rows.parts[0].arrays["counters"].shape[1]), np.uint8)
    counted = np.zeros(len(mine), np.int64)
    for part in rows.parts:
        if part.columns[0] <= shard.columns[0] < part.columns[1]:
            _, here, there = np.intersect1d(mine, id_buckets(part.buckets, bits), return_indices=True)
            if len(here):
                counters[here] = Reader(rows.root, part.arrays["counters"]).read(there)
                counted[here] = Reader(rows.root, part.arrays["counted"]).read(there)
    return {"counters": counters, "counted": counted}
