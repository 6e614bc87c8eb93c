"""The sharding plan that a job trains a model under: one that `headrace plan --json` wrote, or the default."""

from __future__ import annotations

from pathlib import Path

from embeddings.sharding import ShardingPlan
from foundation.errors import UserError, damaged
from foundation.files import read_json


def plan_for(file: str | None, model: str, ranks: int, option: str = "training.plan") -> ShardingPlan | None:
    """A model's plan ("retrieval", "ranking") in a file; None: there is no file, so the default serves. option: what
    named the file, for messages.

    Raises:
      UserError: the file is missing or is not a plan's, lacks the model, or is for another number of ranks.
    """
    if file is None:
        return None
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{option}: {path}: no such file.", "`headrace plan JOB --json FILE` writes one.")
    with damaged(path, "Write it again: headrace plan JOB --json FILE."):
        document = read_json(path, "the sharding plan")
        if model not in document:
            raise UserError(
                f"{option}: {path} has no plan for '{model}'; it has {', '.join(document)}.",
                "Plan for the job itself, not for a file of tables: headrace plan JOB --json FILE.",
            )
        plan = ShardingPlan.from_document(document[model]["plan"])
    if plan.ranks != ranks:
        raise UserError(
            f"{option}: {path} is for {plan.ranks} ranks; there are {ranks}.",
            f"Give --workers {plan.ranks}, or plan anew: headrace plan JOB --devices-per-host {ranks} --json FILE.",
        )
    return plan
