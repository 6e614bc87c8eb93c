"""What training looked like: points for the report, scalars for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.files import atomic_file
from foundation.tf import tf, tf_write_errors


class Curves:
    """Points (step, metric, value) of a stage. They travel inside checkpoints: a resumed run has no point twice.

    shown: whether this process writes them to TensorBoard.
    """

    def __init__(self, stage: str, tensorboard: Path, shown: bool = True) -> None:
        self.stage = stage
        self.points: list[dict[str, Any]] = []
        self._folder = tensorboard / stage
        with tf_write_errors(self._folder):
            self._writer = (
                tf.summary.create_file_writer(str(self._folder)) if shown else tf.summary.create_noop_writer()
            )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one step, here and in TensorBoard."""
        with tf_write_errors(self._folder), self._writer.as_default(step=step):
            for metric, value in values.items():
                self.points.append({"stage": self.stage, "step": step, "metric": metric, "value": float(value)})
                tf.summary.scalar(metric, value)

    def watch(self, step: int, values: Mapping[str, float]) -> None:
        """Shows values in TensorBoard alone: speeds, norms, whatever a resumed run need not repeat."""
        with tf_write_errors(self._folder), self._writer.as_default(step=step):
            for metric, value in values.items():
                tf.summary.scalar(metric, value)

    def close(self) -> None:
        with tf_write_errors(self._folder):
            self._writer.close()


def write_curves(path: Path, stage: str, points: list[dict[str, Any]]) -> None:
    """Replaces one stage's points in a run's curves.jsonl."""
    kept = [point for point in read_curves(path) if point["stage"] != stage]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(point) + "\n" for point in kept + points))


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Every stage's points; [] when nothing was trained yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
