"""What a rank runs that shares memory with others: `shared_memory_program.py RANK FOLDER GROUPS`.

GROUPS is JSON: {name: [case, its environment of each rank]}, groups that the ranks form one after another. They come
together through files in FOLDER/NAME, so no server of TensorFlow's has a say in what happens when one ends. What a rank
has to tell it writes to said-RANK there; what it exchanged is checked here.
"""

import faulthandler
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from foundation.errors import UserError
from foundation.tf import tf
from strategies.shared_memory import SharedMemoryCommunicator, communicator_for

LONG = 60  # seconds; nothing here takes as long


class FolderCommunicator:
    """Gathers through files."""

    def __init__(self, rank: int, size: int, folder: Path) -> None:
        self.rank, self.size, self._folder, self._calls = rank, size, folder, 0

    def all_gather(self, value):
        self._calls += 1
        own = self._folder / f"{self._calls}-{self.rank}.npy"
        with own.with_suffix(".partial").open("wb") as file:
            np.save(file, value.numpy())
        own.with_suffix(".partial").rename(own)
        values = []
        for rank in range(self.size):
            path = self._folder / f"{self._calls}-{rank}.npy"
            while not path.exists():
                time.sleep(0.01)
            values.append(np.load(path))
        return tf.constant(np.concatenate(values))


@contextmanager
def _under(environment: dict[str, str]) -> Iterator[None]:
    """LARGEST_FILE: bytes."""
    before, limits = dict(os.environ), resource.getrlimit(resource.RLIMIT_FSIZE)
    os.environ.update(environment)
    if largest := environment.get("LARGEST_FILE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for name in environment.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _told(case: str, rank: int, ranks: int, folder: Path) -> str:
    try:
        communicator = communicator_for(FolderCommunicator(rank, ranks, folder))
        said = type(communicator).__name__
        if isinstance(communicator, SharedMemoryCommunicator):
            said = CASES[case](communicator, folder) or said
    except UserError as error:
        said = str(error)
    return said


def main() -> None:
    rank, folder, groups = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    for name, (case, environments) in groups.items():
        faulthandler.dump_traceback_later(LONG, exit=True)
        with _under(environments[rank]):
            said = _told(case, rank, len(environments), folder / name)
        print(f"END OF {name}", flush=True)
        (folder / name / f"said-{rank}").write_text(said)
    os._exit(0)


def _in_step(communicator, rounds: int = 20) -> None:
    """Every kind of call, some times over, with the values of `numpy`."""
    rank, ranks = communicator.rank, communicator.size
    for k in range(rounds):
        value = np.arange(5.0, dtype=np.float32) * (rank + 1) + k
        total = sum(np.arange(5.0) * (r + 1) + k for r in range(ranks))
        assert np.array_equal(communicator.all_reduce(tf.constant(value)), total)
        gathered = communicator.all_gather(tf.constant([rank * 10 + k]))
        assert np.array_equal(gathered, np.arange(ranks) * 10 + k)


def _failure(call) -> str:
    try:
        call()
    except tf.errors.OpError as error:
        return f"{type(error).__name__}: {error.message}"
    return "none"


def works(communicator, folder) -> None:
    _in_step(communicator)


def killed(communicator, folder) -> str:
    """Rank 1 ends without a word, while the others wait for it in a tf.function, and before they do in a call."""
    _in_step(communicator, 3)
    if communicator.rank == 1:
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    step = tf.function(lambda value: communicator.all_reduce(value) + 1.0)
    return json.dumps([_failure(lambda: step(tf.ones(3))), _failure(lambda: communicator.all_gather(tf.ones(3)))])


def leaves(communicator, folder) -> str:
    """Rank 1 ends as it should, its last exchange done; what it wrote can still be read."""
    _in_step(communicator, 3)
    if communicator.rank == 1:
        value = communicator.broadcast(tf.range(1_000_000), root=1)
        return str(int(value[-1]))
    (folder / "ready").touch()
    time.sleep(1.0)
    value = communicator.broadcast(tf.zeros([1_000_000], tf.int32), root=1)
    return str(int(value[-1]))


def stopped(communicator, folder) -> None:
    """Rank 1 stops itself; the test lets it go on."""
    _in_step(communicator, 3)
    if communicator.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    _in_step(communicator, 3)


def cut_off(communicator, folder) -> str:
    """A step of rank 0 fails while it waits for the others' part in it; then all go on in step."""
    slow = communicator.rank != 0

    def fail_or_wait(value):
        time.sleep(1.5 if slow else 0.2)
        if not slow:
            raise ValueError("rank 0 fails")
        return value

    @tf.function
    def step(value):
        if slow:
            value = tf.py_function(fail_or_wait, [value], tf.float32)
            return communicator.all_reduce(value)
        return communicator.all_reduce(value), tf.py_function(fail_or_wait, [value], tf.float32)

    value = tf.constant(communicator.rank + 1.0)
    start = time.monotonic()
    said = _failure(lambda: step(value))
    early = time.monotonic() - start < 1.0
    again = tf.function(communicator.all_reduce)
    # The same name as in the step: the next round of its channel.
    later = tf.function(lambda value: communicator.all_reduce(value * 2.0))
    totals = [float(call(value)) for call in (again, later, again, later)]
    _in_step(communicator, 3)
    return json.dumps([said, early, totals])


def no_agreement(communicator, folder) -> str:
    """Ranks call different things: each is told, and the next call is right."""
    rank = communicator.rank
    said = [
        _failure(lambda: communicator.all_reduce(tf.ones([2 + rank]))),
        _failure(lambda: communicator.all_gather(tf.ones([2], tf.float32 if rank else tf.int32))),
        _failure(lambda: communicator.broadcast(tf.ones([2]), root=rank % 2)),
        _failure(lambda: communicator.all_to_all(tf.ones([3]), np.full([2 + rank] * 2, 1))),
        _failure(lambda: communicator.all_to_all(tf.ones([2]), [[1, 1], [1, 1]] if rank else [[3, -1], [0, 0]])),
    ]
    _in_step(communicator, 3)
    return json.dumps(said)


def two_threads(communicator, folder) -> str:
    """A call that is under way already is refused, not mixed up with the other."""
    if communicator.rank == 1:
        while not (folder / "refused").exists():
            time.sleep(0.01)
        return str(float(communicator.all_reduce(tf.ones([]))))
    first = []
    thread = threading.Thread(target=lambda: first.append(float(communicator.all_reduce(tf.ones([])))))
    thread.start()
    time.sleep(0.5)
    said = _failure(lambda: communicator.all_reduce(tf.ones([])))
    (folder / "refused").touch()
    thread.join()
    return json.dumps([said, first])


CASES = {case.__name__: case for case in (works, killed, leaves, stopped, cut_off, no_agreement, two_threads)}


if __name__ == "__main__":
    main()
