"""Stage "index": candidate vectors as of the log's end, and the index over them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from foundation.errors import UserError
from foundation.files import atomic_file, file_entry
from foundation.progress import say
from retrieval.index import Index
from retrieval.vectors import Vectors
from trainer.candidates import index_as_of
from trainer.workspace import Workspace


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves `index/` and `candidates.npy`; the facts are the index's."""
    vectors = Vectors(workspace.two_tower, workspace.space)
    candidates, index = index_as_of(workspace, vectors, workspace.end)
    with atomic_file(workspace.run.candidates) as temporary, temporary.open("wb") as file:
        np.save(file, candidates)
    index.save(workspace.run.index)
    facts = index.facts
    if facts.kind == "exact":
        say(f"index: {facts.size:,} vectors, searched whole")
    else:
        say(
            f"index: {facts.size:,} vectors, {facts.leaves_to_search} of {facts.leaves} leaves searched, "
            f"recall@100 {facts.recall:.3f}"
        )
    return {**asdict(facts), "candidates": file_entry(workspace.run.candidates)}


def intact(workspace: Workspace) -> bool:
    try:
        Index.check(workspace.run.index)
    except UserError:
        return False
    candidates = workspace.run.candidates
    return candidates.exists() and file_entry(candidates) == workspace.run.facts("index")["candidates"]
