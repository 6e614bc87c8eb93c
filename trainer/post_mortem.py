"""What is left to look at when a loss was not finite: the batch, the variables' norms, where every rank stood."""

from __future__ import annotations

import faulthandler
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foundation.tf import tf
from inputs.batches import Batches
from inputs.features import Inputs
from inputs.ragged import Ragged
from trainer.world import World


def write_post_mortem(
    folder: Path,
    stage: str,
    about: Mapping[str, Any],
    batches: Batches,
    batch: tuple[int, int],
    model: Any,
    world: World,
) -> Path:
    """Leaves FOLDER/STAGE-step-N, which every rank calls for; N is about["step"].

    Holds summary.json (`about`, with the batch's epoch and number), batch.npz (the global batch; a ragged input is
    NAME.values and NAME.row_splits), and of each rank R: rank-R.json, the norms of what it holds of tables and of dense
    variables ("nan" and "inf" as words), and rank-R.stack.txt.
    """
    path = folder / f"{stage}-step-{about['step']:08d}"
    epoch, k = batch
    with world.atomic_directory(path) as temporary:
        if world.is_chief:
            arrays: dict[str, Any] = _arrays(batches.batch(epoch, k))
            np.savez(temporary / "batch.npz", **arrays)
            _write(temporary / "summary.json", {"stage": stage, **about, "epoch": epoch, "batch": k})
        rank = world.strategy.ranks[0]
        _write(temporary / f"rank-{rank}.json", norms(model))
        with (temporary / f"rank-{rank}.stack.txt").open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
    return path


def norms(model: Any) -> dict[str, dict[str, float]]:
    """Euclidean norms of what this process holds: of each table, and of each dense variable that is trained."""
    return {
        "tables": {name: float(tf.norm(tf.cast(rows, tf.float32))) for name, rows in model.embedding.tables.items()},
        "dense": {each.name: float(tf.norm(tf.cast(each, tf.float32))) for each in model.trainable_variables},
    }


def are_finite(model: Any) -> bool:
    """Whether all that this process holds of a model is; a pass over it."""
    return all(np.isfinite(norm) for group in norms(model).values() for norm in group.values())


def _arrays(batch: Inputs) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, value in batch.items():
        if isinstance(value, Ragged):
            arrays |= {f"{name}.values": value.values, f"{name}.row_splits": value.row_splits}
        else:
            arrays[name] = value
    return arrays


def _write(path: Path, content: Any) -> None:
    """JSON that any reader takes: numbers that are not finite are words in it."""
    path.write_text(json.dumps(_in_words(content), indent=2) + "\n")


def _in_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_words(each) for key, each in value.items()}
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
