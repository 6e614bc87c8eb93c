"""What a job must be for a TPU to train it."""

from __future__ import annotations

from foundation.errors import UserError
from retrieval.negatives.config import NegativesConfig
from trainer.job import Job

OPTIMIZER = "Adagrad"


def check_tpu_job(job: Job, cores: int) -> None:
    """Raises:
    UserError: the job asks for what a TPU cannot do; all of it is named.
    """
    training, retrieval = job.training, job.retrieval
    wanted = {
        f"retrieval.embedding_optimizer={OPTIMIZER}": retrieval.embedding_optimizer == OPTIMIZER,
        "retrieval.embedding_precision=float32": retrieval.embedding_precision == "float32",
        "retrieval.encoder=bag": retrieval.encoder == "bag",
        "retrieval.loss=sampled_softmax": retrieval.loss == "sampled_softmax",
        "retrieval.log_q=given": retrieval.log_q != "streaming",
        "retrieval.negatives={}": retrieval.negatives == NegativesConfig(),
        f"retrieval.batch_size=a multiple of {cores}": retrieval.batch_size % cores == 0,
        "training.plan=null": training.plan is None,
        "training.wire=float32": training.wire == "float32",
        "training.workers=1": training.workers == 1,
    }
    missing = [setting for setting, there in wanted.items() if not there]
    if missing:
        raise UserError(
            f"tpu: a TPU of {cores} cores cannot train this job as it is.",
            "It wants " + ", ".join(f"--set {setting}" for setting in missing) + " (docs/tpu.md says why).",
        )
