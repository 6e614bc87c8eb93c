"""Messages between a rank and its supervisor: a JSON object behind its length in four bytes, big-endian."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

LONGEST = 1 << 16  # bytes: what a stranger sends to the port must not fill this process's memory
_LENGTH = struct.Struct(">I")


def frame(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    content = json.dumps(message).encode()
    return _LENGTH.pack(len(content)) + content


class Inbox:
    """Puts messages together from bytes as they come."""

    def __init__(self) -> None:
        self._buffer = b""

    def receive(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that `data` completes.

        Raises:
          ValueError: what came is no message.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LONGEST:
                raise ValueError(f"a message of {length} bytes, at most {LONGEST} are wanted")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            content, self._buffer = self._buffer[_LENGTH.size : end], self._buffer[end:]
            try:
                message = json.loads(content)
            except RecursionError as error:
                raise ValueError("a message nested too deeply") from error
            if not isinstance(message, dict):
                raise ValueError(f"a message is an object, not {type(message).__name__}")
            yield message
