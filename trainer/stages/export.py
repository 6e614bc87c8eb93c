"""Stage "export": the bundle that serves."""

from __future__ import annotations

from typing import Any

import numpy as np

from foundation.errors import UserError
from serving.bundle import Card, export_bundle, read_card
from trainer.workspace import Workspace


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves `export/`."""
    job, run = workspace.job, workspace.run
    card = Card(job.name, workspace.end, job.inputs.history_length, job.funnel, job.postranking)
    export_bundle(
        run.export,
        card,
        workspace.two_tower,
        workspace.ranker,
        workspace.space,
        workspace.histories,
        run.index,
        np.load(run.candidates, allow_pickle=False),
    )
    return {"now": card.now}


def intact(workspace: Workspace) -> bool:
    try:
        return read_card(workspace.run.export).now == workspace.end
    except UserError:
        return False
