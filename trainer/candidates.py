"""The catalogue's vectors and the index over them, as of a moment."""

from __future__ import annotations

import numpy as np

from retrieval.index import Index
from retrieval.interests import single
from retrieval.vectors import Vectors
from trainer.workspace import Workspace

SAMPLED_USERS = 1_000


def index_as_of(workspace: Workspace, vectors: Vectors, moment: int) -> tuple[np.ndarray, Index]:
    """(candidate vectors [N, D] float32, their index), knowing nothing of `moment` (seconds) or after."""
    candidates = vectors.candidates(moment)
    return candidates, Index.build(
        candidates, workspace.job.index, workspace.job.seed, _queries(workspace, vectors, moment)
    )


def _queries(workspace: Workspace, vectors: Vectors, moment: int) -> np.ndarray | None:
    """[n, D] query vectors of a sample of the log's users, as the index will be asked; None before anybody was
    there."""
    users = np.unique(workspace.interactions.between(0, moment).users)
    if not len(users):
        return None
    users = np.random.default_rng(workspace.job.seed).permutation(users)[:SAMPLED_USERS]
    now = np.full(len(users), moment)
    return single(vectors.queries(users, workspace.histories.before(users, now, workspace.job.inputs.history_length)))
