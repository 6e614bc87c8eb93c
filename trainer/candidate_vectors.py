"""`headrace index vectors RUN OUT`: the vectors of a run's catalogue, piece by piece, killed at any moment and gone on
with.

```
OUT/_vectors.json        what they are of, and every other file with its digest
OUT/part-00000.parquet   id (int64), vector (float32), raw_id (as the log writes it): a source of `headrace index build`
```
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foundation.errors import UserError, damaged, first_line
from foundation.files import atomic_file, file_entry, json_digest, read_json
from foundation.progress import progress, say
from inputs.entities import Entities
from retrieval.index.parts import check_entries
from retrieval.index.workers.do import do_tasks
from retrieval.index.workers.program import Program, Task
from retrieval.index.workers.unfinished import difference, unfinished
from trainer.best_checkpoint import best_checkpoint
from trainer.checkpoint_folder import CheckpointFolder, find_checkpoint
from trainer.checkpoint_state import VARIABLES
from trainer.job import load_job
from trainer.run_directory import RunDirectory
from trainer.workspace import Workspace

MANIFEST = "_vectors.json"  # with an underscore, which readers of Parquet folders pass over
ROWS_PER_PIECE = 1 << 16
RAW, POSITIONS = "raw ids", "positions"
_STAGE = "retrieval"
_FORMAT = 1
_PROGRAM = Program("trainer.candidate_worker", tasks_each=None, remedy="If memory ran out: fewer workers.")


@dataclass(frozen=True)
class Written:
    """What OUT holds. ids: `RAW`, the log's own ids of items where these are integers from 0 on; else `POSITIONS` in
    the catalogue. as_of: seconds; nothing later is known to the vectors."""

    size: int
    dim: int
    ids: str
    step: int | None
    as_of: int


def vectors_checkpoint(path: Path) -> CheckpointFolder:
    """The checkpoint whose vectors a path asks for: of a run directory its best; else the one that it names.

    Raises:
      UserError: there is none, it is of another stage, or lies in no run directory.
    """
    found = best_checkpoint(path, _STAGE) if (path / "checkpoints").is_dir() else find_checkpoint(path)
    if found.stage not in (None, _STAGE):
        raise UserError(
            f"{found.path}: a checkpoint of {found.stage}, whose model gives no vectors.", f"Name one of {_STAGE}."
        )
    if found.run is None:
        raise UserError(
            f"{found.path}: it lies in no run directory, which would tell what its ids stand for.",
            "Name it as it lies there: RUN, or RUN/checkpoints/retrieval/step-N.",
        )
    return found


def write_candidate_vectors(path: str | Path, out: str | Path, workers: int = 1, ray: str | None = None) -> Written:
    """Writes the vectors of a whole catalogue, as of its log's end, by the model of a checkpoint; `out` appears by one
    rename, once all is there.

    path: a run directory, whose best checkpoint is meant, or a checkpoint in one; whatever ranks and plan it was saved
    under. workers: processes of this machine, or, with `ray` (a cluster's address), tasks there. Each holds the log's
    positives and the catalogue's features, and of the model the dense variables and the rows that one piece asks for.

    Until then the work lies in `.OUT.building` beside `out`, each piece committed by a rename of its own: the same call
    goes on from there, after an error, a Ctrl-C or a kill. Where `out` was made from the same, nothing is done.

    Raises:
      UserError: what is wrong with the checkpoint, its run directory, the disk, the cluster; a vector is not finite;
        `out` is there and something else; what lies in `.OUT.building` was begun from something else.
    """
    checkpoint, out = vectors_checkpoint(Path(path)), Path(out)
    checkpoint.saved.check()
    opened = _Opened(checkpoint)  # what is wrong is found before anything is begun
    size = len(opened.candidates.positions)
    written = Written(size, opened.candidates.dim, opened.kind, checkpoint.step, opened.as_of)
    made_from = checkpoint.saved.state.get("made_from")
    plan = {"made_from": made_from, **asdict(written), "rows_per_piece": ROWS_PER_PIECE}
    if out.exists():
        _see_already(out, plan)
        return written
    with unfinished(out, plan) as work:
        tasks: list[Task] = [
            {"checkpoint": str(checkpoint.path), "start": start, "stop": min(start + ROWS_PER_PIECE, size)}
            for start in range(0, size, ROWS_PER_PIECE)
        ]
        for number, task in enumerate(tasks):
            task["makes"] = str((work / f"part-{number:05d}.parquet").absolute())
        missing = [task for task in tasks if not _is_whole(task)]
        left = sum(task["stop"] - task["start"] for task in missing)
        with progress("computing", size, "vectors", size - left) as meter:
            do_tasks(_PROGRAM, missing, workers, ray, lambda task: meter.advance(task["stop"] - task["start"]))
        files = {Path(task["makes"]).name: file_entry(Path(task["makes"])) for task in tasks}
        facts = {"format": _FORMAT, **plan, "checkpoint": str(checkpoint.path), "files": files}
        (work / MANIFEST).write_text(json.dumps({**facts, "digest": json_digest(facts)}, indent=2) + "\n")
    return written


def write_piece(task: Task) -> None:
    """Writes the Parquet file that a task names: checkpoint, start, stop (of its candidates), makes.

    Raises:
      UserError: a vector is not finite, the checkpoint is damaged, or the disk refuses.
    """
    opened = _opened(Path(task["checkpoint"]))
    candidates = opened.candidates
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("vector", pa.list_(pa.float32(), candidates.dim)),
            ("raw_id", opened.raw_ids.type),
        ]
    )
    done = task["start"]
    with atomic_file(task["makes"]) as temporary, pq.ParquetWriter(temporary, schema, compression="none") as file:
        for vectors in candidates.vectors(task["start"], task["stop"]):
            places = pa.array(candidates.positions[done : done + len(vectors)])
            raw = opened.raw_ids.take(places)
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                raise UserError(
                    f"{task['checkpoint']}: the vector of item {raw[int(np.argmin(finite))]} is not finite.",
                    "Look at its training, or name another checkpoint.",
                )
            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            vector = pa.FixedSizeListArray.from_arrays(flat, candidates.dim)
            file.write_batch(pa.record_batch([opened.ids.take(places), vector, raw], schema=schema))
            done += len(vectors)


class _Opened:
    def __init__(self, checkpoint: CheckpointFolder) -> None:
        from retrieval.candidates import SavedCandidates

        assert checkpoint.run is not None
        run = RunDirectory(checkpoint.run)
        job = load_job(run.config)
        workspace = Workspace(job, run, str(run.config), alone=True)
        _see_unchanged(workspace, checkpoint)
        self.as_of = workspace.end
        self.raw_ids = workspace.space.items.ids
        self.kind, self.ids = _index_ids(workspace.space.items)
        self.candidates = SavedCandidates(
            workspace.space,
            job.retrieval,
            job.seed,
            self.as_of,
            checkpoint.path / VARIABLES,
            checkpoint.tables,
        )


@lru_cache(maxsize=1)
def _opened(checkpoint: Path) -> _Opened:
    """Kept for the next piece."""
    return _Opened(vectors_checkpoint(checkpoint))


def _see_unchanged(workspace: Workspace, checkpoint: CheckpointFolder) -> None:
    """That the run's log and feature space are what the checkpoint was trained on."""
    run = workspace.run
    if workspace.dataset.fingerprint != run.facts("data").get("fingerprint"):
        raise UserError(
            f"{workspace.dataset.path}: the log has changed since {run.path} was made from it.",
            f"Make it again: headrace run {run.config}, which does every stage that is to be done anew.",
        )
    if checkpoint.saved.state.get("made_from") != run.source(_STAGE):
        raise UserError(
            f"{checkpoint.path}: trained from something else than what {run.path} holds now.",
            "Train it again, or name another checkpoint.",
        )


def _index_ids(items: Entities) -> tuple[str, pa.Array]:
    """(which they are, [N] int64): what an index knows items by."""
    if pa.types.is_int64(items.ids.type) and (not len(items.ids) or pc.min(items.ids).as_py() >= 0):
        return RAW, items.ids
    return POSITIONS, pa.array(np.arange(len(items)))


def _is_whole(task: Task) -> bool:
    path = Path(task["makes"])
    if not path.exists():
        return False
    try:
        if pq.read_metadata(path).num_rows == task["stop"] - task["start"]:
            return True
        reason = "not as many rows as there were"
    except (pa.ArrowException, OSError) as error:
        reason = first_line(error)
    say(f"{path}: made again ({reason})")
    return False


def _see_already(out: Path, plan: dict[str, Any]) -> None:
    remedy = "Name a folder that is not, or remove that one."
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out}: this is there already, and no vectors of candidates.", "Name a folder that is not.")
    with damaged(out / MANIFEST, remedy):
        facts = dict(read_json(out / MANIFEST, "the manifest of vectors"))
        if facts.pop("digest", None) != json_digest(facts):
            raise ValueError("it is not what was written")
        files = dict(facts["files"])
    if found := difference(facts, {"format": _FORMAT, **plan}):
        raise UserError(f"{out}: vectors are there already, made from something else ({found}).", remedy)
    check_entries(out, files, remedy, "vectors")
    say(f"{out}: written already")
