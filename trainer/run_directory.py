"""The run directory: one job's artefacts, and the record of which stages are done."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from foundation.errors import UserError, damaged
from foundation.files import atomic_file, disk_errors, read_json, sweep_partial, write_json
from trainer.job import Job, what_decides


class RunDirectory:
    """Paths of a run and its stage record. One process at a time may write it (`locked`)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.dataset = self.path / "data"
        self.space = self.path / "space"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.timelines = self.path / "timelines"
        self.post_mortems = self.path / "post_mortems"
        self.index = self.path / "index"
        self.candidates = self.path / "candidates.npy"
        self.export = self.path / "export"
        self.metrics = self.path / "metrics.json"
        self.curves = self.path / "curves.jsonl"
        self.report = self.path / "report.html"
        self._stages = self.path / "stages.json"
        self._lock = self.path / ".headrace.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run directory for this process, making it if need be; sweeps what killed ones left half-written.

        Raises:
          UserError: the folder is something else than a run directory, or another process holds it.
        """
        self._refuse_foreign_folder()
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self._lock, "a")  # noqa: SIM115 - closed by the `with` below, outside `disk_errors`
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path}: another headrace process is working in this run directory.",
                    "Wait for it to end, or choose another with --run-dir.",
                ) from error
            self.sweep()
            yield

    def sweep(self) -> None:
        """Removes what killed processes left half-written; to be called while none is at work."""
        for folder in (self.path, self.post_mortems, *self.checkpoints.glob("*")):
            sweep_partial(folder)

    def goes_on_from(self) -> str:
        """What the next process to work here goes on from, in words: a checkpoint, or what is done before it."""
        for folder in sorted(self.checkpoints.glob("*"), key=lambda folder: folder.stat().st_mtime, reverse=True):
            steps = [entry.name.removeprefix("step-") for entry in folder.glob("step-*")]
            if steps and self.made_from(folder.name) is None:
                return f"step {max(map(int, steps)):,} of {folder.name}"
        done = list(self.seconds())
        return f"the end of {done[-1]}" if done else "the beginning"

    def claim(self, job: Job) -> None:
        """Makes this the job's run directory. One in which no stage is done is a new job's to take.

        Raises:
          UserError: it was made by another job (the differing keys are named).
        """
        if self.config.exists() and self.seconds():
            self._refuse_another_job(job)
            return
        with atomic_file(self.config) as temporary:
            temporary.write_text(yaml.safe_dump(job.document(), sort_keys=False))

    def _refuse_foreign_folder(self) -> None:
        if not self.path.exists() or self._lock.exists():
            return
        if not self.path.is_dir() or any(self.path.iterdir()):
            raise UserError(
                f"{self.path}: exists and is not a run directory (it has no {self._lock.name}).",
                "Choose another with --run-dir, or remove it.",
            )

    def _refuse_another_job(self, job: Job) -> None:
        with damaged(self.config, "Choose another with --run-dir, or remove it."):
            stored = dict(yaml.safe_load(self.config.read_text()))
        different = list(_differences(what_decides(stored), what_decides(job.document())))
        if different:
            shown = "; ".join(f"{key}: {old!r} there, {new!r} here" for key, old, new in different[:5])
            raise UserError(
                f"{self.path}: this run directory was made by another job ({shown}).",
                "Choose another with --run-dir, remove it, or run the job it was made with.",
            )

    def done(self, stage: str, made_from: str) -> bool:
        """Whether the stage finished with exactly these inputs."""
        return self._record().get(stage, {}).get("made_from") == made_from

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded; {} when it is not done."""
        return self._record().get(stage, {}).get("facts", {})

    def made_from(self, stage: str) -> str | None:
        return self._record().get(stage, {}).get("made_from")

    def record(self, stage: str, made_from: str, seconds: float, facts: dict[str, Any]) -> None:
        """Marks a stage done: after this its artefacts are trusted."""
        stages = self._record()
        stages[stage] = {"made_from": made_from, "seconds": round(seconds, 3), "facts": facts}
        write_json(self._stages, stages)

    def begin(self, stage: str, made_from: str) -> None:
        """Marks a stage not done, before its artefacts are replaced, and notes what it is being made from."""
        stages = self._record()
        stages[stage] = {"making": made_from}
        write_json(self._stages, stages)

    def making(self, stage: str) -> str:
        """What a stage that has begun is being made from."""
        return self._record()[stage]["making"]

    def source(self, stage: str) -> str | None:
        """What a stage was made from, or is being made from; None: it has not begun."""
        entry = self._record().get(stage, {})
        return entry.get("made_from", entry.get("making"))

    def seconds(self) -> dict[str, float]:
        """Seconds each finished stage took."""
        return {stage: entry["seconds"] for stage, entry in self._record().items() if "seconds" in entry}

    def _record(self) -> dict[str, Any]:
        if not self._stages.exists():
            return {}
        with damaged(self._stages, "Remove it: every stage is then done again."):
            return {stage: dict(entry) for stage, entry in read_json(self._stages, "the record of stages").items()}


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new
