"""Stage "data": simulate or read the log, split it by time, fit the feature space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.progress import progress, say
from inputs.config import InputsConfig
from inputs.dataset import Dataset
from inputs.features import FeatureSpace
from inputs.interactions import Interactions
from inputs.readers import import_log
from inputs.simulate.world import simulate
from trainer.job import Job
from trainer.workspace import Workspace


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves the dataset in the run directory (unless the job names one that is there) and the feature space."""
    dataset = _dataset(workspace)
    split = workspace.split_of(dataset)
    space = FeatureSpace.fit(dataset, split, workspace.job.inputs)
    _check_names(workspace.job, dataset, space)
    space.save(workspace.run.space)
    users, items = dataset.users.num_rows, dataset.items.num_rows
    say(f"data: {dataset.source}: {users:,} users, {items:,} items, {dataset.num_events:,} events")
    if dataset.counts:
        say("data: " + "; ".join(f"{reason}: {rows:,}" for reason, rows in dataset.counts.items()))
    elsewhere = None if dataset.path == workspace.run.dataset else str(dataset.path.resolve())
    return {"elsewhere": elsewhere, "fingerprint": dataset.fingerprint}


def _check_names(job: Job, dataset: Dataset, space: FeatureSpace) -> None:
    """Finds out now what a later stage would stumble over: names in the job that the log must have."""
    Interactions.from_dataset(dataset, space, job.inputs.positive)
    for feature in job.postranking.caps:
        try:
            space.item_group(feature)
        except UserError as error:
            raise UserError(f"postranking.caps: {error.message}", "Name a category feature of the items.") from error


def _dataset(workspace: Workspace) -> Dataset:
    inputs, out = workspace.job.inputs, workspace.run.dataset
    if inputs.format != "simulated":
        return import_log(inputs, out)
    if inputs.path is not None:
        return Dataset.open(inputs.path)
    with progress("simulating", inputs.simulate.impressions, "impressions") as meter:
        return simulate(inputs.simulate, out, meter.advance)


def intact(workspace: Workspace) -> bool:
    facts = workspace.run.facts("data")
    try:
        FeatureSpace.load(workspace.run.space)
        return workspace.open_dataset().fingerprint == facts["fingerprint"]
    except UserError:
        return False


def source_of(job_inputs: InputsConfig, run: Path) -> list[tuple[str, int, int]]:
    """(name, bytes, time of change) of each of the log's files: the stage is done again when one of them changes. A
    run directory inside the log's folder is no part of it.

    Raises:
      UserError: the log is missing.
    """
    if job_inputs.path is None:
        return []
    mapping = job_inputs.columns
    named: dict[str, str | None] = {"path": job_inputs.path}
    if mapping is not None:
        named |= {"columns.user_file": mapping.user_file, "columns.item_file": mapping.item_file}
    files: list[Path] = []
    for key, name in named.items():
        if name is None:
            continue
        path = Path(name)
        if not path.exists():
            raise UserError(
                f"{path}: no such file or folder.", f"Check inputs.{key} in the job (or --set inputs.{key}=...)."
            )
        files += sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
    own = run.resolve()
    files = [file for file in files if own not in file.resolve().parents]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
