"""Tasks done by whoever is named to do them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from retrieval.index.workers.cluster import do_on_ray
from retrieval.index.workers.processes import do_on_processes
from retrieval.index.workers.program import Program, Task


def do_tasks(
    program: Program, tasks: Sequence[Task], workers: int, ray: str | None, done: Callable[[Task], None]
) -> None:
    """Does the tasks, `workers` at once, and calls `done` after each: on processes of this machine, or on the Ray
    cluster whose address is given. Raises as `do_on_processes` and `do_on_ray`."""
    if ray is None:
        do_on_processes(program, tasks, workers, done)
    else:
        do_on_ray(program, tasks, workers, ray, done)
