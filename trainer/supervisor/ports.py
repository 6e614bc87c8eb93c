"""Loopback ports kept free for the ranks."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


class HeldPorts:
    """Ports that no other process is given while this is open.

    Each is bound, and never listened on, by a socket with SO_REUSEADDR: the system picks it for nobody else, yet a
    server that sets SO_REUSEADDR too, as TensorFlow's gRPC server does, may listen on it. So there is no moment between
    finding a port free and its rank's taking it.
    """

    def __init__(self, count: int) -> None:
        self._sockets = [socket.socket() for _ in range(count)]
        for held in self._sockets:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((LOOPBACK, 0))

    @property
    def addresses(self) -> list[str]:
        """ "HOST:PORT" of each."""
        return ["{}:{}".format(*held.getsockname()) for held in self._sockets]

    def close(self) -> None:
        for held in self._sockets:
            held.close()
