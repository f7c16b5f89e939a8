"""Messages between a process and those that it has started, on a socket pair: JSON behind its length.

JSON, because who reads it need not trust who wrote it. What is bytes becomes an object with one nameless key.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from typing import Any, Final

_LENGTH: Final = struct.Struct("<I")
_RECEIVE_BYTES: Final = 64 << 10
_MAX_BYTES: Final = 256 << 20
"""A listing of two million names as people give them; of 175,000 of 255 bytes that are not UTF-8."""


class Channel:
    """One end. For one thread at a time, but for `send` beside `receive`. Everything raises OSError, EOFError if the
    other end is closed, ValueError if what comes is no message. Messages have up to 256 MiB."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()

    def send(self, message: object) -> None:
        """Of None, bool, int, float, str, bytes, and lists and dicts of them; lists are what costs least.

        Raises: OverflowError if it is too large; nothing is sent then.
        """
        body = _ENCODE(message).encode()
        if len(body) > _MAX_BYTES:
            raise OverflowError(f"{len(body)} bytes are more than a message has room for")
        self._socket.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message. Raises: TimeoutError after `timeout_s`, and nothing is lost then."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (message := self._next()) is None:
            if deadline is not None and not _readable(self._socket, deadline - time.monotonic()):
                raise TimeoutError
            if not (data := self._socket.recv(_RECEIVE_BYTES)):
                raise EOFError
            self._buffer += data
        return _DECODE(message.decode())

    def _next(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > _MAX_BYTES:
            raise ValueError(f"a message of {length} bytes")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message

    def close(self) -> None:
        self._socket.close()


def _readable(end: socket.socket, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(max(0, timeout_s * 1000)))


def _from_bytes(value: bytes) -> dict[str, str]:
    return {"": value.decode("latin-1")}


def _to_bytes(found: dict[str, Any]) -> Any:
    return found[""].encode("latin-1") if found.keys() == {""} else found


_ENCODE: Final = json.JSONEncoder(default=_from_bytes).encode
_DECODE: Final = json.JSONDecoder(object_hook=_to_bytes).decode
"""Made once: json.dumps and json.loads would make them anew each time."""
