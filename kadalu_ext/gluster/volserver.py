"""The volfile server of one storage's clients: GETSPEC on a unix socket, and FETCHSPEC pushed when the volfile changed.

A glusterfs client started with --volfile-server-transport=unix keeps its connection, comes back when it broke (every
three seconds), and switches to a changed volfile under running reads and writes.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import threading
from typing import Final

from kadalu_ext.errors import InvalidInputError, WireError
from kadalu_ext.gluster import messages, oncrpc

_RECEIVE_BYTES: Final = 1 << 16
_MAX_REQUEST_BYTES: Final = 1 << 16
_MAX_PATH_BYTES: Final = 107
"""unix(7): sun_path has 108 bytes, one of them the NUL."""


class VolfileServer:
    """Serves the volfile of one volume at a time, at `path` (mode 0600). Thread-safe.

    A client of another volume, left from earlier, is told that there is none: it goes on with what it has. To be
    given this one's would put the wrong data under its pods.
    """

    def __init__(self, path: str) -> None:
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            raise InvalidInputError(f"{path}: longer than a unix socket's path may be ({_MAX_PATH_BYTES} bytes)")
        self.path = path
        self._lock = threading.Lock()
        self._served: tuple[str, str] | None = None
        """The volume's name, and its volfile."""
        self._listener: socket.socket | None = None
        self._clients: set[_Connection] = set()
        self._xids = itertools.count(1)

    def serve(self, volume: str, volfile: str) -> bool:
        """Serves `volfile` to clients of `volume` from now on, and tells those that are connected if it differs from
        what was served; True if so.

        Listens from the first call on: before that clients are refused, and come back.
        Raises: OSError if the socket cannot be made, RuntimeError if there is no thread for it. The next call
        tries again.
        """
        with self._lock:
            if (volume, volfile) == self._served:
                return False
            if self._listener is None:
                self._listen()
            self._served = volume, volfile
            clients = tuple(self._clients)
        for client in clients:
            client.send(messages.fetchspec_call(next(self._xids)))
        return True

    def close(self) -> None:
        """Stops serving. Clients go on with what they have, and come back when another server is at the path."""
        with self._lock:
            listener, self._listener, self._served = self._listener, None, None
            clients = tuple(self._clients)
        if listener is not None:
            # close() alone would not wake the thread that accepts
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for client in clients:
            client.hang_up()

    def _listen(self) -> None:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.path)
            # before it listens nobody can connect: no moment at which another user could
            os.chmod(self.path, 0o600)
            listener.listen(16)
            threading.Thread(target=self._accept, args=(listener,), name="volfile-accept", daemon=True).start()
        except BaseException:
            listener.close()
            raise
        self._listener = listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return  # closed
            try:
                threading.Thread(target=self._talk, args=(_Connection(accepted),), name="volfile", daemon=True).start()
            except RuntimeError:
                accepted.close()  # no thread for it; it comes back

    def _talk(self, client: _Connection) -> None:
        with self._lock:
            self._clients.add(client)
        deframer = oncrpc.Deframer(_MAX_REQUEST_BYTES)
        try:
            while data := client.receive():
                deframer.feed(data)
                while (record := deframer.next_record()) is not None:
                    message = oncrpc.decode(record)
                    if isinstance(message, oncrpc.Call):
                        client.send(self._answer(message))
        except (OSError, WireError):
            pass  # a client that is gone, or none of ours
        finally:
            with self._lock:
                self._clients.discard(client)
            client.close()

    def _answer(self, call: oncrpc.Call) -> bytes:
        if call.procedure != messages.GETSPEC:
            return oncrpc.encode_unavailable(call.xid)
        wanted = messages.read_getspec_request(call.args)
        with self._lock:
            volume, volfile = self._served or ("", "")
        body = messages.getspec_reply(volfile) if wanted == volume else messages.getspec_refusal(errno.ENOENT)
        return oncrpc.encode_reply(call.xid, body)


class _Connection:
    """One client. Answers and pushes come from different threads, so what is sent is sent whole."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def receive(self) -> bytes:
        return self._socket.recv(_RECEIVE_BYTES)

    def send(self, record: bytes) -> None:
        with self._sending:
            try:
                self._socket.sendall(oncrpc.frame(record))
            except OSError:
                self.hang_up()  # whoever receives finds out

    def hang_up(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.close()
