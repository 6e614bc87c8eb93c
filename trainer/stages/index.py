"""Stage "index": candidate vectors as of the log's end, and the index over them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from foundation.errors import UserError
from foundation.files import atomic_file
from foundation.progress import say
from retrieval.index import Index
from retrieval.vectors import Vectors
from trainer.workspace import Workspace

SAMPLED_USERS = 1_000


def perform(workspace: Workspace) -> dict[str, Any]:
    """Leaves `index/` and `candidates.npy`; the facts are the index's."""
    vectors = Vectors(workspace.two_tower, workspace.space)
    candidates = vectors.candidates(workspace.end)
    index = Index.build(candidates, workspace.job.index, workspace.job.seed, _queries(workspace, vectors))
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
    return asdict(facts)


def _queries(workspace: Workspace, vectors: Vectors) -> np.ndarray:
    """Query vectors of a sample of the log's users, as the index will be asked."""
    users = np.unique(workspace.interactions.users)
    users = np.random.default_rng(workspace.job.seed).permutation(users)[:SAMPLED_USERS]
    now = np.full(len(users), workspace.end)
    return vectors.queries(users, workspace.histories.before(users, now, workspace.job.inputs.history_length))


def intact(workspace: Workspace) -> bool:
    try:
        Index.check(workspace.run.index)
    except UserError:
        return False
    return workspace.run.candidates.exists()
