"""A training's steps, recorded now and then: to TensorBoard where their time goes, and a timeline of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embeddings import ShardedEmbedding
from foundation.tf import tf, tf_write_errors
from trainer.profiling.phases import breakdown
from trainer.profiling.recording import recorded
from trainer.profiling.timeline import join_timelines, write_timeline
from trainer.world import World


class StepWatch:
    """One rank's records of a stage: `step_ms/<phase>` and `exchange/...` (`ShardedEmbedding.traffic`) under
    TENSORBOARD/STAGE/rank-N; TIMELINES/STAGE.json of all ranks that this process shares a disk with."""

    def __init__(
        self, stage: str, tensorboard: Path, timelines: Path, world: World, embedding: ShardedEmbedding
    ) -> None:
        self._embedding = embedding
        self._stage, self._timelines, self._world = stage, timelines, world
        self._rank = world.strategy.ranks[0]
        self._folder = tensorboard / stage / f"rank-{self._rank}"
        self._writer: Any = None
        self._part(self._rank).unlink(missing_ok=True)  # of a run that did not come to its end

    @contextmanager
    def steps(self, last: int, count: int) -> Iterator[None]:
        """Records the block, which makes `count` steps up to step `last`."""
        with recorded() as recording:
            yield
        if not recording.ops:
            return
        if self._writer is None:
            with tf_write_errors(self._folder):
                self._writer = tf.summary.create_file_writer(str(self._folder))
        with tf_write_errors(self._folder), self._writer.as_default(step=last):
            for phase, milliseconds in breakdown(recording.ops, count).items():
                tf.summary.scalar(f"step_ms/{phase}", milliseconds)
            for what, value in self._embedding.traffic().items():
                tf.summary.scalar(f"exchange/{what}", value)
        write_timeline(self._part(self._rank), self._rank, recording.ops)

    def close(self) -> None:
        """To be called by every rank when the training is over."""
        if self._writer is not None:
            with tf_write_errors(self._folder):
                self._writer.close()
        self._world.meet()
        if self._world.is_chief:
            parts = [part for rank in range(self._world.size) if (part := self._part(rank)).exists()]
            if parts:
                join_timelines(self._timelines / f"{self._stage}.json", parts)
            for part in self._timelines.glob(f".{self._stage}-*.json"):
                part.unlink()

    def _part(self, rank: int) -> Path:
        return self._timelines / f".{self._stage}-{rank}.json"
