"""Recorded steps as a file in Chrome's trace event format, which Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foundation.files import atomic_file
from trainer.profiling.phases import phase_of
from trainer.profiling.recording import Op


def write_timeline(path: Path, rank: int, ops: Sequence[Op]) -> None:
    """One rank's ops: a process of the trace, its threads below it; an op's category is its phase."""
    threads = {thread: number for number, thread in enumerate(dict.fromkeys(op.thread for op in ops))}
    events: list[dict[str, Any]] = [_named("process_name", rank, 0, f"rank {rank}")]
    events += [_named("thread_name", rank, number, thread) for thread, number in threads.items()]
    events += [
        {
            "ph": "X",
            "name": op.kind,
            "cat": phase_of(op) or "other",
            "ts": op.start / 1000,  # microseconds
            "dur": (op.stop - op.start) / 1000,
            "pid": rank,
            "tid": threads[op.thread],
            "args": {"op": op.name},
        }
        for op in ops
    ]
    _write(path, events)


def join_timelines(path: Path, parts: Iterable[Path]) -> None:
    """All ranks' timelines in one file, on one clock: that of their machines."""
    _write(path, [event for part in parts for event in json.loads(part.read_text())["traceEvents"]])


def _named(what: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": rank, "tid": thread, "args": {"name": name}}


def _write(path: Path, events: list[dict[str, Any]]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
