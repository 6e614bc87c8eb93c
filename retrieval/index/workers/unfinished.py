"""A folder made in many steps: gone on with after a kill, and there only once it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foundation.errors import UserError, damaged
from foundation.files import commit_directory, disk_errors, read_json, sweep_partial, write_json
from foundation.progress import say

_PLAN, _LOCK = "plan.json", "lock"


@contextlib.contextmanager
def unfinished(
    out: Path, plan: dict[str, Any], is_lost: Callable[[Mapping[str, Any]], bool] = lambda begun: False
) -> Iterator[Path]:
    """Yields the folder `.OUT.building` beside `out`, for this process alone. When the block ends without an error it
    takes the name `out`, in one rename; otherwise it stays, and the next call for the same plan goes on with it.

    plan: all that `out` is made from, as plain JSON values. is_lost: of the plan that lies there, whether nothing can
    finish it any more; then all is begun again.

    Raises:
      UserError: another process is at work there, or has made `out`; what lies there was begun from another plan; the
        disk refuses.
    """
    work = out.with_name(f".{out.name}.building")
    with disk_errors(out), _held(work):
        if out.exists():
            if not (work / _PLAN).exists():
                shutil.rmtree(work)
            raise UserError(f"{out}: another process has made it meanwhile.", "Run the same command again.")
        _begin(work, plan, is_lost)
        yield work
        commit_directory(work, out)  # with its plan: until it is there, what lies in `work` is of that plan alone
        for name in (_PLAN, _LOCK):
            (out / name).unlink()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two plans, in words; "": nothing."""
    return "; ".join(
        f"{key}: {json.dumps(old.get(key))}, now {json.dumps(value)}"
        for key, value in new.items()
        if old.get(key) != value
    )


@contextlib.contextmanager
def _held(work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{work}: another process builds there.", "Wait for it, or end it.") from None
        yield


def _begin(work: Path, plan: dict[str, Any], is_lost: Callable[[Mapping[str, Any]], bool]) -> None:
    sweep_partial(work)
    if not (work / _PLAN).exists():
        _clear(work)  # of what plan it would be, nobody knows
        write_json(work / _PLAN, plan)
        return
    begun = read_json(work / _PLAN, "the plan of an unfinished build")
    with damaged(work / _PLAN, f"Remove {work} and build again."):
        found, lost = difference(dict(begun), plan), is_lost(begun)
    if lost:
        say(f"begun again, since what {work} was made from is no longer there")
        _clear(work)
        write_json(work / _PLAN, plan)
        return
    if found:
        raise UserError(
            f"{work}: a build from something else was not finished ({found}).",
            f"Finish that one by its own command, or remove {work}.",
        )
    say(f"going on with what is in {work}")


def _clear(work: Path) -> None:
    (work / _PLAN).unlink(missing_ok=True)  # first: without it the rest is nothing
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
