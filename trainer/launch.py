"""One call of a command on a job: in this process, or as the ranks that it starts."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from foundation.errors import UserError, first_line
from trainer.job import Job, TrainingConfig, digest, load_job
from trainer.run_directory import RunDirectory
from trainer.supervisor.digests import software_digests
from trainer.supervisor.environment import RANK, is_supervised, parameter_server_tasks, tasks_on
from trainer.supervisor.member import Membership, join
from trainer.supervisor.supervise import supervise
from trainer.supervisor.survive import Survival, survive
from trainer.workspace import Workspace

HOROVOD_RANK = "HOROVOD_RANK"  # horovodrun sets it
LEFT_BEHIND = 3
DEFAULT_RESTARTS = 3
ONE_PROCESS = ("single", "mirrored")
_PEER_GONE = re.compile(
    r"Socket closed|failed to connect|Connection re(set|fused)|rank \d+ \(pid \d+\) is gone|been shut down"
)


@dataclass(frozen=True)
class JobCall:
    """The words of a command, and its options. strategy, workers: in place of the job's; several workers of a job that
    names no strategy are `multi_worker`. restarts, min_workers: in place of the job's too."""

    words: tuple[str, ...]
    file: Path
    overrides: tuple[str, ...] = ()
    run_dir: Path | None = None
    strategy: str | None = None
    workers: int | None = None
    restarts: int | None = None
    min_workers: int | None = None

    @cached_property
    def job(self) -> Job:
        """Raises:
        UserError: see `load_job`; or the strategy runs in one process and there are several workers; or fewer of them
          may do, and the strategy cannot do with fewer.
        """
        options = {name: getattr(self, name) for name in ("workers", "strategy", "restarts", "min_workers")}
        given = [f"training.{name}={value}" for name, value in options.items() if value is not None]
        job = load_job(self.file, (*self.overrides, *given))
        if job.training.workers > 1 and job.training.strategy == "single":
            if "strategy" in job.training.model_fields_set:
                raise UserError(
                    f"training.workers: {job.training.workers} workers of strategy 'single', which is one process.",
                    "Leave out the strategy, or give one for several: multi_worker, mirrored, horovod.",
                )
            training = job.training.model_copy(update={"strategy": "multi_worker"})
            job = job.model_copy(update={"training": training})
        least, strategy = job.training.min_workers, job.training.strategy
        if least is not None and least < job.training.workers and strategy != "multi_worker":
            raise UserError(
                f"training.min_workers: {least} of {job.training.workers} workers of strategy '{strategy}', which goes "
                "on with all or none.",
                "Leave it out, or give strategy multi_worker.",
            )
        return job

    def workspace(self, membership: Membership | None = None, alone: bool = False) -> Workspace:
        return Workspace(self.job, self.run, str(self.file), membership, alone)

    @cached_property
    def run(self) -> RunDirectory:
        return RunDirectory(self.run_dir or self.job.run_path())

    def launched(self) -> bool:
        """Runs the ranks to their end, if it is for this process to start them; else False: it is one of them, or they
        are all in it.

        Raises:
          UserError: ranks failed beyond `training.restarts`, the run directory cannot be had, or the strategy's
            launcher is not there. SystemExit: with PREEMPTED: SIGTERM came.
        """
        training = self.job.training
        if _is_a_rank():
            return False
        if training.strategy == "horovod" and training.workers > 1:
            _become_horovodrun(self._command(training.workers), training.workers)
        slots = _slots(training)
        if not slots:
            return False
        restarts = DEFAULT_RESTARTS if training.restarts is None else training.restarts
        with self.run.locked():
            self.run.claim(self.job)
            least = training.min_workers if training.strategy == "multi_worker" else None
            survive(self._attempt, slots, Survival(restarts, least), self._committed)
        return True

    def _attempt(self, slots: Sequence[int]) -> None:
        """Runs the ranks once, on these slots."""
        training = self.job.training
        if training.strategy == "parameter_server":
            tasks, workers = parameter_server_tasks(training.workers, training.servers), training.workers
        else:
            tasks, workers = tasks_on(slots), training.workers if training.strategy == "mirrored" else len(slots)
        supervise(
            self._command(workers),
            tasks,
            log_folder=self.run.path / "logs",
            environment=_shares_of_cores(len(tasks)),
        )

    def _committed(self) -> str:
        """What the next attempt goes on from; none is at work now."""
        self.run.sweep()
        return self.run.goes_on_from()

    def _command(self, workers: int) -> list[str]:
        least = self.job.training.min_workers
        options = [f"--set={override}" for override in self.overrides]
        options += [f"--run-dir={self.run.path}", f"--strategy={self.job.training.strategy}", f"--workers={workers}"]
        options += [f"--min-workers={least}"] if least is not None else []
        return [sys.executable, "-m", "trainer.main", *self.words, str(self.file), *options]


@contextmanager
def as_member(job: Job) -> Iterator[Membership]:
    """This process as a member of the group that its supervisor started, if one did.

    Raises:
      UserError: the ranks disagree on job, code or versions. SystemExit: with LEFT_BEHIND, after one line: an exchange
        broke since another rank is gone, which is the one to speak of.
    """
    digests = {"job": digest(job.document()), **software_digests()} if is_supervised() else {}
    with join(digests) as membership:
        try:
            yield membership
        except Exception as error:
            if not (_is_a_rank() and _is_of_another_rank(error)):
                raise
            print(f"ended, since another rank did: {first_line(error)}", file=sys.stderr)
            raise SystemExit(LEFT_BEHIND) from None


def serve_if_asked(job: Job, membership: Membership) -> None:
    """In a process that is one of a parameter-server job's workers or servers: serves until it is ended."""
    if job.training.strategy != "parameter_server":
        return
    from strategies.parameter_server import Cluster, serve

    if Cluster.here().task != "chief":
        membership.phase("serving")
        serve()


def _slots(training: TrainingConfig) -> int:
    """On how many slots of this machine ranks are to be started; 0: this process is all there is, or is one that
    another launcher started."""
    if training.strategy == "parameter_server":
        return 1 + training.workers + training.servers  # the coordinator too
    if training.strategy == "multi_worker" and training.workers > 1:
        return training.workers
    return int(training.strategy in ONE_PROCESS and bool(training.restarts))


def _is_a_rank() -> bool:
    """Whether our supervisor, horovodrun or a cluster's launcher started this process as one of several."""
    return any(name in os.environ for name in (RANK, HOROVOD_RANK, "TF_CONFIG"))


def _is_of_another_rank(error: Exception) -> bool:
    """Whether TensorFlow or Horovod tells of a peer that is gone, not of this rank's own doing."""
    theirs = type(error).__module__.partition(".")[0] in ("tensorflow", "horovod")
    return theirs and bool(_PEER_GONE.search(str(error)))


def _shares_of_cores(processes: int) -> Mapping[str, str]:
    """TensorFlow's threads for each of these processes, where the user has not said so: all of them with a
    thread for each core would but wait for each other."""
    share = str(max(len(os.sched_getaffinity(0)) // processes, 1))
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    return {name: share for name in names if name not in os.environ}


def _become_horovodrun(command: list[str], workers: int) -> None:
    beside = Path(sys.executable).parent / "horovodrun"
    program = str(beside) if beside.exists() else shutil.which("horovodrun")
    if program is None:
        raise UserError(
            "horovod: horovodrun is not installed here.",
            "`make horovod` builds it for this TensorFlow (a C++ compiler and some minutes).",
        )
    os.execv(program, [program, "-np", str(workers), *command])
