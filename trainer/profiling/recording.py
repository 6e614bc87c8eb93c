"""The ops that this process runs within a block, with their times."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from foundation.quiet import native_stderr_hidden
from foundation.tf import tf, xplane_pb2

_HOST = "/host:"


@dataclass(frozen=True)
class Op:
    """One op that ran. name: scopes and its own; kind: its type; thread: where. start, stop: ns since the epoch."""

    name: str
    kind: str
    thread: str
    start: int
    stop: int


@dataclass
class Recording:
    """What ran in a block; to be read once the block has ended."""

    ops: list[Op] = field(default_factory=list)


@contextmanager
def recorded() -> Iterator[Recording]:
    """Records the block under TensorFlow's profiler. Where that cannot be, as another profile is taken or there is no
    room for its file, nothing is recorded: training does not end of it."""
    recording = Recording()
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            with native_stderr_hidden():
                options = tf.profiler.experimental.ProfilerOptions(python_tracer_level=0)
                tf.profiler.experimental.start(folder, options=options)
        except (OSError, tf.errors.OpError):
            yield recording
            return
        began = time.time_ns()
        try:
            yield recording
        finally:
            with suppress(OSError, tf.errors.OpError), native_stderr_hidden():
                tf.profiler.experimental.stop()
        with suppress(OSError):
            recording.ops += [op for file in Path(folder).rglob("*.xplane.pb") for op in _ops(file, began)]


def _ops(file: Path, began: int) -> list[Op]:
    space = xplane_pb2.XSpace()
    space.ParseFromString(file.read_bytes())
    ops = []
    for plane in space.planes:
        if not plane.name.startswith(_HOST):
            continue
        for line in plane.lines:
            for event in line.events:
                name, colon, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if not colon or not kind.isidentifier() or name.endswith(":"):  # not an op: a function, a C++ scope
                    continue
                start = began + line.timestamp_ns + event.offset_ps // 1000
                ops.append(Op(name, kind, line.name, start, start + event.duration_ps // 1000))
    return sorted(ops, key=lambda op: op.start)
