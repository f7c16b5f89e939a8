"""A gluster host on the loopback that answers as it is told: no thread sleeps, no port is fixed."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kadalu_ext.errors import WireError
from kadalu_ext.gluster import messages, oncrpc, xdr
from kadalu_ext.gluster.oncrpc import Call, Procedure
from tests.unit.gluster.golden import wire

Answer = bytes | Callable[[Call], bytes | None]
"""A result; or what makes one of the call, None for silence."""


@dataclass(kw_only=True)
class FakeHost:
    """`answers` may be changed at any time. `before` is sent before each reply: a callback, or rubbish."""

    host: str
    port: int
    answers: dict[Procedure, Answer]
    before: bytes = b""
    tls: ssl.SSLContext | None = None
    calls: list[Procedure] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def drop_connections(self) -> None:
        for connection in list(self.connections):  # whoever comes back at once is not meant
            _quietly(lambda each: socket.socket.shutdown(each, socket.SHUT_RDWR), connection)

    def push(self, record: bytes) -> None:
        """Sends a record to all who are connected."""
        for connection in list(self.connections):
            _quietly(lambda each: each.sendall(oncrpc.frame(record)), connection)

    def serve(self, connection: socket.socket) -> None:
        deframer = oncrpc.Deframer()
        with connection:
            while data := connection.recv(65536):
                deframer.feed(data)
                for record in iter(deframer.next_record, None):
                    self._answer(connection, record)

    def _answer(self, connection: socket.socket, record: bytes) -> None:
        call = oncrpc.decode(record)
        assert isinstance(call, Call)
        self.calls.append(call.procedure)
        answer = self.answers.get(call.procedure, silent)
        body = answer if isinstance(answer, bytes) else answer(call)
        if body is not None:
            connection.sendall(self.before + oncrpc.frame(oncrpc.encode_reply(call.xid, body)))


@contextmanager
def fake_host(host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[FakeHost]:
    """A host that knows the volumes `one` and `rep`, whose bricks listen on the port of its glusterd.

    tls: a server's; all its connections are encrypted then.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=16)
    fake = FakeHost(host=host, port=listener.getsockname()[1], answers={}, tls=tls)
    fake.answers = {
        messages.GETSPEC: wire("getspec-one.reply"),
        messages.GET_VOLUME: wire("get-volume-rep.reply"),
        messages.PORTBYBRICK: port_reply(fake.port),
        messages.SETVOLUME: wire("setvolume.reply"),
        messages.LOOKUP: wire("lookup.reply"),
        messages.STATFS: wire("statfs.reply"),
        messages.GETXATTR: wire("getxattr.reply"),
    }
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if fake.tls is not None:
                connection = fake.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            fake.connections.append(connection)
            threads.append(threading.Thread(target=_quietly, args=(fake.serve, connection)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield fake
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        fake.drop_connections()
        for thread in threads:
            thread.join()


def _quietly(function: Callable[[socket.socket], object], connection: socket.socket) -> None:
    try:
        function(connection)
    except (OSError, WireError):
        pass  # the other side, or the test's end, closed it; or it speaks TLS, and glusterd hangs up


def port_reply(port: int) -> bytes:
    """pmap_port_by_brick_rsp."""
    return xdr.i32(0) + xdr.i32(0) + xdr.i32(0) + xdr.i32(port)


def silent(_call: Call) -> bytes | None:
    """An answer that never comes."""
    return None


def hang_up(_call: Call) -> bytes | None:
    """Closes the connection instead of an answer."""
    raise ConnectionAbortedError
