"""A rank's side: it joins the group at its start, and says from then on that it lives and how far it is."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from foundation.errors import UserError, first_line
from trainer.supervisor.environment import RANK, RENDEZVOUS, TOKEN, WORLD_SIZE
from trainer.supervisor.wire import Inbox, frame

CONNECT_SECONDS = 30.0


def join(digests: Mapping[str, str]) -> Membership:
    """Joins the group that this process's supervisor started, once every rank has come and all agree; returns at once
    in a process that has no supervisor.

    digests: what this rank runs, by name (job, code, versions): it must be the same on all ranks.

    Raises:
      UserError: the ranks disagree, or the supervisor that the environment names does not answer.
    """
    address = os.environ.get(RENDEZVOUS)
    if not address:
        return Membership(rank=0, world_size=1)
    host, _, port = address.rpartition(":")
    rank, world_size = int(os.environ[RANK]), int(os.environ[WORLD_SIZE])
    try:
        connection = socket.create_connection((host, int(port)), CONNECT_SECONDS)
        connection.settimeout(None)  # how long to wait for the other ranks is the supervisor's to decide
        connection.sendall(frame({"token": os.environ[TOKEN], "rank": rank, "digests": dict(digests)}))
        answer = _answer(connection)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{RENDEZVOUS}: no supervisor answers at {address} ({error}).",
            "`headrace run JOB --workers N` sets it for the ranks it starts; unset it to run alone.",
        ) from error
    if "refused" in answer:
        raise UserError(answer["refused"], answer["remedy"])
    return Membership(rank, world_size, connection, answer["seconds_between_beats"])


def _answer(connection: socket.socket) -> dict[str, Any]:
    inbox = Inbox()
    while data := connection.recv(4096):
        for message in inbox.receive(data):
            return message
    raise UserError("the supervisor ended before the ranks had agreed to start.", "Run the same command again.")


class Membership:
    """One rank's place in its group.

    As a context manager it tells the supervisor at once of the exception that ends the block: a failing rank may take
    long to end, and the others fail of it sooner.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        connection: socket.socket | None = None,
        seconds_between_beats: float = 1.0,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._connection = connection
        self._seconds = seconds_between_beats
        self._place: dict[str, Any] = {"stage": None, "step": None, "phase": "starting"}
        self._moved = -1 if connection is None else os.eventfd(0, os.EFD_NONBLOCK)
        self._sending = threading.Lock()
        self._left = threading.Event()
        if connection is not None:
            threading.Thread(target=self._beat, args=(connection,), name="heartbeat", daemon=True).start()

    def progress(self, step: int) -> None:
        """Notes the last step done; cheap enough for every step. From now on steps are expected: a rank that does none
        for long is taken for stuck."""
        self._place = {**self._place, "step": step, "phase": None}
        if self._moved >= 0:  # told at once: should the next step kill this process, it is known which
            os.eventfd_write(self._moved, 1)

    def stage(self, name: str) -> None:
        """Says that a stage begins: its steps are counted anew, and none is expected yet."""
        self._place = {"stage": name, "step": None, "phase": name}

    def phase(self, name: str) -> None:
        """Says that something else than steps goes on ("validation", "export"), however long it takes."""
        self._place = {**self._place, "phase": name}

    def leave(self) -> None:
        """Ends the beats: from now on only this process's exit code tells how it goes."""
        with self._sending:
            if self._connection is not None and not self._left.is_set():
                self._left.set()
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Membership:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            failed = f"{type(error).__name__}: {first_line(error)}"
            self._send(
                {**self._place, "failed": failed, "when": time.monotonic()}
            )  # one clock for a machine's processes
        self.leave()

    def _beat(self, connection: socket.socket) -> None:
        """Says where this rank is, after each progress and every few moments, in a thread of its own. The supervisor
        sends nothing after its answer: what can be read is the end of the connection. Unless this rank left, that is
        the supervisor's own end, and the rank's with it."""
        readable = select.poll()
        readable.register(connection, select.POLLIN)
        readable.register(self._moved, select.POLLIN)
        with connection:
            while not self._left.is_set():
                self._send(self._place)
                ready = [fd for fd, _ in readable.poll(self._seconds * 1000)]
                if connection.fileno() in ready and not self._left.is_set():
                    os._exit(1)
                if self._moved in ready:
                    os.eventfd_read(self._moved)

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            if self._connection is None or self._left.is_set():
                return
            try:
                self._connection.sendall(frame(message))
            except OSError:
                os._exit(1)
