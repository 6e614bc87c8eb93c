"""The process that computes pieces of candidate vectors: `python -m trainer.candidate_worker`."""

from __future__ import annotations

from foundation.tf import tf
from retrieval.index.workers.program import Task, serve
from trainer.candidate_vectors import write_piece


def perform(task: Task) -> None:
    """`write_piece`, on the processor: processes that share a GPU would each take all of its memory, and a tower is
    small."""
    tf.config.set_visible_devices([], "GPU")
    write_piece(task)


if __name__ == "__main__":
    serve(perform)
