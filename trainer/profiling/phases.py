"""Ops sorted into the phases of a training step, and a step's time divided among them."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Sequence

from trainer.profiling.recording import Op

PHASES = ("input", "exchange", "lookup", "dense", "update", "wait")
_BY_KIND = (
    ("input", re.compile(r"IteratorGetNext")),
    ("exchange", re.compile(r"Collective|Horovod|Headrace(Shared|Distinct|Pack|Arrived|Pool|Sums|Merge|Unpack)")),
    ("update", re.compile(r"Headrace(Update|Step)")),
    ("lookup", re.compile(r"HeadraceLookup|HeadraceFind")),
)
_LAYER = "sharded_embedding"
# Ops that only wait for those they call, which are recorded too; and the batches that another thread makes meanwhile.
_NOT_A_STEPS = re.compile(r"((Stateful|Stateless)?(PartitionedCall|While|If|Case)|(Eager)?PyFunc)$")


def phase_of(op: Op) -> str | None:
    """One of PHASES but "wait"; None: its time is not the step's own. What the embedding layer does beside looking up
    and updating is its exchange: choosing, ordering and joining rows."""
    if _NOT_A_STEPS.match(op.kind):
        return None
    for phase, kinds in _BY_KIND:
        if kinds.search(op.kind):
            return phase
    return "exchange" if _LAYER in op.name else "dense"


def breakdown(ops: Sequence[Op], steps: int) -> dict[str, float]:
    """Milliseconds of one of `steps` by phase, which add up to the time from the first op to the last: of each moment
    the phase of the op that began last, or "wait" when none runs, for other ranks or for what is on its way."""
    found = [(op.start, op.stop, phase) for op in ops if (phase := phase_of(op)) is not None]
    spent = dict.fromkeys(PHASES, 0)
    if not found:
        return dict.fromkeys(PHASES, 0.0)
    edges = sorted({edge for start, stop, _ in found for edge in (start, stop)})
    arriving = iter(sorted(found))
    coming = next(arriving, None)
    running: list[tuple[int, int, str]] = []  # the latest to begin first
    for now, then in itertools.pairwise(edges):
        while coming is not None and coming[0] <= now:
            heapq.heappush(running, (-coming[0], coming[1], coming[2]))
            coming = next(arriving, None)
        while running and running[0][1] <= now:
            heapq.heappop(running)
        spent[running[0][2] if running else "wait"] += then - now
    return {phase: nanoseconds / 1e6 / steps for phase, nanoseconds in spent.items()}
