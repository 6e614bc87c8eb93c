"""Which rank failed first and why, in words."""

from __future__ import annotations

import signal
from collections.abc import Collection, Sequence
from pathlib import Path

from foundation.errors import UserError
from trainer.supervisor.watch import Failure, How, Standing


class GroupFailed(UserError):
    """What a group ended with that is no user's error, so that another start may go better.

    rank: the first that failed. short: how and where, in a line. place: (stage, step, phase) where it was; None: before
    its first step. came: it had joined the others. struck: a signal killed it, from outside.
    """

    def __init__(
        self,
        message: str,
        remedy: str,
        rank: int,
        short: str,
        place: tuple[str | None, int | None, str | None] | None = None,
        came: bool = False,
        struck: bool = False,
    ) -> None:
        super().__init__(message, remedy)
        self.rank, self.short, self.place, self.came, self.struck = rank, short, place, came, struck


def account(
    failure: Failure,
    standings: Sequence[Standing],
    stopped: Collection[int],
    last_lines: Sequence[str],
    log_folder: Path | None,
) -> GroupFailed:
    """The error that a group ends with. standings: by rank, as it stood when the failure was noticed, with its status
    after the end. stopped: the ranks that a signal held then. last_lines: what the rank that failed wrote last."""
    first = standings[failure.rank]
    short = f"{in_short(failure, standings, first.rank in stopped)}{_where(first)}"
    said = [f"{short}."]
    if last_lines:
        said += ["Its last lines:", *(f"  {line}" for line in last_lines)]
    others = [one for one in standings if one is not first]
    if others:
        said.append(f"Ended with it: {'; '.join(_other(one, one.rank in stopped) for one in others)}.")
    remedy = "\n".join(_remedies(failure, first, log_folder))
    came = first.joined is not None
    place = first.place if came and first.step is not None else None
    return GroupFailed("\n".join(said), remedy, first.rank, short, place, came, struck=(first.status or 0) < 0)


def in_short(failure: Failure, standings: Sequence[Standing], stopped: bool) -> str:
    """How a rank failed, in a line."""
    first = standings[failure.rank]
    return f"rank {first.rank} of {len(standings)}{first.title} {_what(failure, first, stopped)}"


def _what(failure: Failure, first: Standing, stopped: bool) -> str:
    seconds = f"{failure.seconds:.0f} s"
    if failure.how is How.ENDED and first.status is not None:
        reason = f" ({first.reason})" if first.reason else ""
        return f"was killed by {_end(first)}" if first.status < 0 else f"ended with {_end(first)}{reason}"
    if failure.how is How.LINGERING:
        return f"failed ({first.reason}) and did not end within {seconds},"
    if failure.how is How.ABSENT:
        return f"did not join the others, who waited {seconds}{' (a signal stopped it)' if stopped else ''}"
    if failure.how is How.STUCK:
        return f"did no step for {seconds}"
    return f"was not heard of for {seconds} ({'a signal stopped it' if stopped else 'one call held it'})"


def _end(one: Standing) -> str:
    if one.status is None:
        return "not ended even by SIGKILL"
    return f"exit code {one.status}" if one.status >= 0 else signal.Signals(-one.status).name


def _where(one: Standing) -> str:
    """Where it was, behind a space; "" for what never joined: it does not say."""
    if one.joined is None:
        return ""
    if one.step is None:
        return " before its first step" if one.stage is None else f" in {one.stage} before its first step"
    return f" at step {one.step}" if one.phase is None else f" in {one.phase} after step {one.step}"


def _other(one: Standing, stopped: bool) -> str:
    end = "finished before" if one.ended is not None and one.status == 0 else _end(one)
    return f"rank {one.rank}{one.title}{_where(one)} ({'stopped by a signal, then ' if stopped else ''}{end})"


def _remedies(failure: Failure, first: Standing, log_folder: Path | None) -> list[str]:
    remedies = []
    if failure.how is How.ENDED and first.status == -signal.SIGKILL:
        remedies.append("The kernel sends SIGKILL when memory runs out: `dmesg` tells.")
    if log_folder is not None:
        remedies.append(f"Its whole log: {log_folder / f'rank-{first.rank}.log'}")
    return remedies
