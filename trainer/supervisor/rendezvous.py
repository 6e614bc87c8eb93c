"""The supervisor's side of the conversation: ranks join, are told whether all agree, and are heard of from then on."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import selectors
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

from foundation.errors import UserError
from trainer.supervisor.agreement import disagreement
from trainer.supervisor.ports import LOOPBACK
from trainer.supervisor.watch import PatientClock, Standing, Timeouts
from trainer.supervisor.wire import Inbox, frame


class Rendezvous:
    """Listens on a loopback port, and writes what it hears into `standings` (one for each rank, in order). Who does not
    know `token` is not listened to.

    selector: whose owner calls a ready file's `data()`. refusal: why the ranks may not start together, once known.
    """

    def __init__(
        self, selector: selectors.BaseSelector, standings: Sequence[Standing], clock: PatientClock, timeouts: Timeouts
    ) -> None:
        self.token = secrets.token_hex(16)
        self.refusal: UserError | None = None
        self._selector, self._standings, self._clock, self._timeouts = selector, standings, clock, timeouts
        self._waiting: dict[int, socket.socket] = {}  # by rank, until all have joined
        self._digests: dict[int, dict[str, str]] = {}  # by rank
        self._answered = False
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.setblocking(False)
        self.address = "{}:{}".format(*self._listener.getsockname())
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                self._close(key.fileobj)

    def expect_again(self, rank: int) -> None:
        """A rank that failed is started again, and will join as if it had not before."""
        self._waiting.pop(rank, None)
        self._digests.pop(rank, None)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it went away again
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, partial(self._read, connection, Inbox(), []))

    def _read(self, connection: socket.socket, inbox: Inbox, known: list[Standing]) -> None:
        """Takes what came. known: the standing of the rank that speaks, once it has joined."""
        try:
            data = connection.recv(1 << 16)
            for message in inbox.receive(data):
                if known:
                    self._hear(known[0], message)
                else:
                    known.append(self._join(connection, message))
        except BlockingIOError:
            return
        except (OSError, ValueError, LookupError, TypeError):  # no rank of ours speaks so
            data = b""
        if not data:
            for standing in known:
                standing.heard = None  # it left, or ended
            self._close(connection)

    def _join(self, connection: socket.socket, message: dict[str, Any]) -> Standing:
        if not hmac.compare_digest(str(message["token"]), self.token):
            raise ValueError("a wrong token")
        standing = self._standings[message["rank"]]
        if standing.joined is not None:
            raise ValueError(f"rank {standing.rank} has joined before")
        standing.joined = standing.moved = self._clock.now
        standing.phase = "starting"
        self._waiting[standing.rank] = connection
        self._digests[standing.rank] = {str(k): str(v) for k, v in message["digests"].items()}
        if self._answered or len(self._waiting) == len(self._standings):
            self._answer()
        return standing

    def _answer(self) -> None:
        """Tells those that wait, now that the last has joined, whether they may start. Each is answered once."""
        self._answered = True
        self.refusal = disagreement([self._digests[rank] for rank in sorted(self._digests)])
        answer: dict[str, Any] = {"seconds_between_beats": self._timeouts.between_beats}
        if self.refusal is not None:
            answer = {"refused": self.refusal.message, "remedy": self.refusal.remedy}
        for rank, connection in self._waiting.items():
            self._standings[rank].heard = self._clock.now
            with contextlib.suppress(OSError):  # that rank has ended, which its process tells
                connection.sendall(frame(answer))
        self._waiting.clear()

    def _hear(self, standing: Standing, message: dict[str, Any]) -> None:
        standing.beat(self._clock.now, message["step"], message["phase"], message.get("stage"))
        if "failed" in message and standing.failing is None:
            standing.failing, standing.reason = self._clock.now, str(message["failed"])
            standing.told = float(message["when"])

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
