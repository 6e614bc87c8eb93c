"""Whether the ranks of a group exchange through shared memory: found out together, so that all do or none does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from foundation.errors import UserError, first_line
from foundation.progress import say
from foundation.tf import tf
from strategies.collectives import CollectiveCommunicator
from strategies.shared_memory import files
from strategies.shared_memory.communicator import LIBRARY, SharedMemoryCommunicator, ops

EXCHANGE = "HEADRACE_EXCHANGE"
MODES = ("auto", "collectives", "shared_memory")
_TOLD_BYTES = 4096


@cache
def communicator_for(collectives: CollectiveCommunicator) -> CollectiveCommunicator | SharedMemoryCommunicator:
    """What the ranks that `collectives` joins, each one process and its CPU, exchange through. HEADRACE_EXCHANGE is
    "auto" (shared memory where all are on one machine, have a compiler and can open each other's memory), "collectives"
    or "shared_memory". All ranks call this at the same place; it makes up to three small exchanges.

    Raises:
      UserError: on every rank: HEADRACE_EXCHANGE is none of these or not the same on all, or is "shared_memory" and
        that cannot be.
    """
    with tf.init_scope():
        told = _tell(collectives, {"mode": os.environ.get(EXCHANGE, "auto"), "machine": files.machine()})
        mode = _mode([rank["mode"] for rank in told])
        if mode == "collectives":
            return collectives
        if len({rank["machine"] for rank in told}) > 1:
            if mode == "auto":
                return collectives
            raise UserError(
                f"{EXCHANGE} is 'shared_memory', but the ranks cannot see each other's memory: they are on several "
                "machines, in several containers, or of several users.",
                "Leave it at 'auto', or set 'collectives'.",
            )
        made = _share(collectives)
    if isinstance(made, SharedMemoryCommunicator):
        return made
    if mode == "shared_memory":
        raise UserError(f"{EXCHANGE} is 'shared_memory', but {made}.", "Leave it at 'auto', or set 'collectives'.")
    if collectives.rank == 0:
        say(f"{made}. The ranks exchange through TensorFlow's collectives, slower.")
    return collectives


def refuse_on_gpu() -> None:
    """For ranks whose device is a GPU, which exchange through NCCL.

    Raises:
      UserError: HEADRACE_EXCHANGE is "shared_memory", or none of the modes.
    """
    if _mode([os.environ.get(EXCHANGE, "auto")]) == "shared_memory":
        raise UserError(
            f"{EXCHANGE} is 'shared_memory', but the ranks' device is a GPU.", "Leave it at 'auto': GPUs use NCCL."
        )


def _mode(modes: Sequence[str]) -> str:
    """The ranks' common mode."""
    for mode in modes:
        if mode not in MODES:
            raise UserError(f"{EXCHANGE} is {mode!r}.", f"It may be {', '.join(MODES)}.")
    if len(set(modes)) > 1:
        each = "; ".join(f"rank {rank}: {mode}" for rank, mode in enumerate(modes))
        raise UserError(f"{EXCHANGE} is not the same on all ranks ({each}).", "Start every rank with the same.")
    return modes[0]


def _share(collectives: CollectiveCommunicator) -> SharedMemoryCommunicator | str:
    """The communicator, on every rank; or on every rank why there is none."""
    found, problem = _tried(lambda: (LIBRARY.path().name, ops(), files.OwnFile()))
    library, _, own = found or ("", None, None)
    told = _tell(collectives, {"problem": problem, "library": library, **(own.address() if own else {})})
    reason = _reason(told)
    if reason is None and len({(rank["library"], rank["bytes"]) for rank in told}) > 1:
        reason = "the ranks' compiled exchanges are not of one source"
    if reason is None:
        assert own is not None  # else this rank had a problem to tell
        made, problem = _tried(lambda: _opened(collectives.rank, own, told))
        reason = _reason(_tell(collectives, {"problem": problem}))
        if reason is None:
            return made
    if own is not None:
        own.close()
    return reason


def _opened(rank: int, own: files.OwnFile, told: Sequence[dict[str, Any]]) -> SharedMemoryCommunicator:
    opened: list[int] = []
    try:
        for other, address in enumerate(told):
            opened.append(own.fd if other == rank else files.open_file(address))
        return SharedMemoryCommunicator(rank, opened, own.bytes)
    except (UserError, tf.errors.OpError):
        for file in opened:
            if file != own.fd:
                os.close(file)
        raise


def _tried(attempt: Callable[[], Any]) -> tuple[Any, str | None]:
    """(what came of it, None), or (None, why nothing did)."""
    try:
        return attempt(), None
    except UserError as error:
        return None, error.message.rstrip(".")
    except Exception as error:  # whatever it is, the other ranks wait to be told
        return None, first_line(error)


def _reason(told: Sequence[dict[str, Any]]) -> str | None:
    """The first rank's that has a problem."""
    return next((f"rank {rank}: {said['problem']}" for rank, said in enumerate(told) if said["problem"]), None)


def _tell(collectives: CollectiveCommunicator, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's document, in rank order."""
    short = {key: value[:400] if isinstance(value, str) else value for key, value in document.items()}
    text = json.dumps(short).encode()
    own = np.zeros([1, _TOLD_BYTES], np.int32)  # collectives know no bytes
    own[0, : len(text)] = np.frombuffer(text, np.uint8)
    gathered = collectives.all_gather(tf.constant(own)).numpy()
    return [json.loads(bytes(row[row > 0].astype(np.uint8))) for row in gathered]
