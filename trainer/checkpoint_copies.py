"""A checkpoint written anew: for other ranks, or as files for others. Whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embeddings.checkpoints.describe import describe_tables
from embeddings.checkpoints.export import export_tables
from embeddings.checkpoints.reshard import reshard_tables
from embeddings.sharding import ShardingPlan
from foundation.errors import UserError
from foundation.files import atomic_directory, disk_errors, file_entry, read_json, write_json
from foundation.progress import progress
from trainer.checkpoint_folder import CheckpointFolder
from trainer.checkpoint_state import STATE, TABLES
from trainer.sharding_plans import plan_for

README, VOCABULARY = "README.json", "vocabulary.parquet"
EXPORT_FORMAT = 1


def reshard_checkpoint(
    checkpoint: CheckpointFolder,
    out: Path,
    ranks: int,
    plan_file: Path | None,
    precision: str | None,
    slot_precision: str | None,
) -> None:
    """Writes the checkpoint laid for `ranks` ranks: tables anew, everything else as it is.

    Raises:
      UserError: it is damaged, the plan is not for it, or the disk is full: nothing is left.
    """
    checkpoint.saved.check()
    plan = _plan(plan_file, checkpoint.stage, ranks)
    total = sum(table.bytes for table in describe_tables(checkpoint.tables).tables)
    with atomic_directory(out) as new, progress("resharding", total, "bytes") as meter:
        tables = new if checkpoint.holds_tables_alone else new / TABLES
        reshard_tables(checkpoint.tables, tables, plan or ranks, precision, slot_precision, meter.advance)
        if not checkpoint.holds_tables_alone:
            for name in [*checkpoint.saved.files, STATE]:
                with disk_errors(out):
                    shutil.copyfile(checkpoint.path / name, new / name)


def _plan(file: Path | None, stage: str | None, ranks: int) -> ShardingPlan | None:
    if file is None or stage is not None:
        return plan_for(None if file is None else str(file), stage or "", ranks, "--plan")
    known = list(read_json(file, "the sharding plan")) if file.is_file() else [""]
    if len(known) != 1:
        raise UserError(
            f"--plan: {file} has plans for {', '.join(known)}; which is this checkpoint's, its folder does not say.",
            "Name it as it lies in its run: RUN/checkpoints/STAGE/step-N; or give a file of one plan.",
        )
    return plan_for(str(file), known[0], ranks, "--plan")


def export_checkpoint(checkpoint: CheckpointFolder, out: Path, since: int | CheckpointFolder | None) -> None:
    """Writes every table by id (`embeddings.checkpoints.export`), its vocabulary where a run directory around the
    checkpoint has one, and README.json, which tells the files.

    Raises:
      UserError: it is damaged, what was touched since cannot be told, or the disk is full: nothing is left.
    """
    before = since.tables if isinstance(since, CheckpointFolder) else since
    total = sum(table.rows for table in describe_tables(checkpoint.tables).tables)
    with atomic_directory(out) as new, progress("exporting", total, "rows") as meter:
        index = export_tables(checkpoint.tables, new, before, meter.advance)
        for name, values in _vocabularies(checkpoint).items():
            if name in index:
                path = new / index[name]["folder"] / VOCABULARY
                with disk_errors(out):
                    pq.write_table(pa.table({"id": range(1, len(values) + 1), "raw_id": values}), path)
                index[name]["files"][VOCABULARY] = file_entry(path)
        write_json(new / README, _readme(checkpoint, since, index))


def _readme(
    checkpoint: CheckpointFolder, since: int | CheckpointFolder | None, index: dict[str, Any]
) -> dict[str, Any]:
    return {
        "format": EXPORT_FORMAT,
        "what": {
            "ids.npy": "[rows] int64, rising: the ids",
            "vectors.npy": "[rows, dim] float32: row by row the vectors of ids.npy",
            "rows.parquet": "the same: columns id (int64) and vector (dim float32)",
            "shared.npy": "[dim] float32, of a dynamic table: the vector of every id that has no row",
            "gone.npy": "of a delta: ids that had a row in the checkpoint it is from, and have none now",
            "vocabulary.parquet": "columns id and raw_id: what the log calls each id; id 0 is what it does not know",
        },
        "checkpoint": str(checkpoint.path),
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "made_from": checkpoint.saved.state.get("made_from"),
        "since": str(since.path) if isinstance(since, CheckpointFolder) else since,
        "tables": index,
    }


def _vocabularies(checkpoint: CheckpointFolder) -> dict[str, pa.Array]:
    from trainer.vocabularies import vocabularies_of

    if checkpoint.run is None or not (checkpoint.run / "space").is_dir():
        return {}
    return dict(vocabularies_of(checkpoint.run).values)
