"""One TCP connection to a glusterd or a brick: calls, one after the other, each within its deadline.

Deadlines are times of `time.monotonic()`.
"""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import Callable
from typing import Final, Self, TypeVar

from kadalu_ext.errors import HostHungError, HostRefusedError, HostSilentError, HostUnreachableError, WireError
from kadalu_ext.gluster import oncrpc
from kadalu_ext.gluster import tls as tls_
from kadalu_ext.gluster.addresses import connect, left
from kadalu_ext.gluster.oncrpc import Accepted, Call, Credential, Procedure, Rejected
from kadalu_ext.gluster.tls import Tls

_CHUNK_BYTES: Final = 64 << 10
_DRAINED: Final = 64
"""Pieces that are taken at once: a server that never ceases to call must not keep its thread from what it is asked."""
_KEPT: Final = (
    # A kept connection to a host that has vanished is noticed within about twenty seconds, whether it is idle or not.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 8),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
T = TypeVar("T")


class Connection:
    """Connects at the first call. After any error it is closed, and connects anew at the next call.

    server: what is expected to answer there, for messages ("glusterd"). tls: None: in the clear. Not for several
    threads at once, but for `abort`. on_call: is given what the server calls us with (FETCHSPEC), amid replies and by
    `drain`, in the thread that makes the call.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        server: str,
        credential: Credential = oncrpc.AUTH_NONE,
        tls: Tls | None = None,
        on_call: Callable[[Call], None] | None = None,
    ) -> None:
        self._where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host = host
        self._port = port
        self._server = server
        self._credential = credential
        self._tls = tls
        self._on_call = on_call
        self._heard = False
        self._agreed = False
        self._socket: socket.socket | None = None
        self._deframer = oncrpc.Deframer()
        self._xids = itertools.count(1)

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def fileno(self) -> int:
        """For poll(2); -1 while it is not connected."""
        return -1 if self._socket is None else self._socket.fileno()

    def drain(self) -> bool:
        """Takes what has come without being asked for, and waits for nothing; False: the connection is closed now."""
        if self._socket is None:
            return False
        try:
            self._socket.settimeout(0)
            for _ in range(_DRAINED):
                if (record := self._deframer.next_record()) is not None:
                    self._heard_call(oncrpc.decode(record))
                elif data := self._socket.recv(_CHUNK_BYTES):
                    self._deframer.feed(data)
                else:
                    self.close()
                    break
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except (OSError, WireError):
            self.close()
        return self.connected

    def abort(self) -> None:
        """Ends a call that another thread has going on, which raises HostRefusedError then."""
        sock = self._socket
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # an SSLSocket's own is not for two threads
            except OSError:
                pass  # it is closed already, or does not connect yet

    def connect(self, deadline: float) -> None:
        """Connects without a call, if it is not. Raises: as `call`."""
        self._bounded(lambda: self._connect(deadline))

    def call(self, procedure: Procedure, args: bytes, deadline: float) -> bytes:
        """The procedure's result.

        Raises: HostSilentError at the deadline if the host did not take the connection, HostHungError if it did;
        HostRefusedError if it refuses or closes it; TlsError if it closes it before it has said anything, or does not
        agree about TLS; HostUnreachableError if there is no way to it; WireError if what answers denies the call or
        does not speak gluster. All name host and port.
        """
        return self._bounded(lambda: self._call(procedure, args, deadline))

    def _bounded(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except TimeoutError as error:
            self.close()
            raise HostHungError(self._silence()) from error
        except WireError as error:
            self.close()
            raise WireError(f"{self}: {error}") from error
        except ConnectionRefusedError as error:
            self.close()
            raise HostRefusedError(f"{self} refused the connection: {self._server} does not run there") from error
        except ssl.SSLError as error:
            self.close()
            raise tls_.failed(self, self._server, error, agreed=self._agreed) from error
        except ConnectionError as error:
            early = self.connected and not self._heard
            self.close()
            if early and self._tls is not None:
                raise tls_.failed(self, self._server, error, agreed=self._agreed) from error
            if early:
                raise tls_.wanted(self, self._server) from error
            raise HostRefusedError(f"{self}: {error.strerror or error}") from error
        except OSError as error:
            self.close()
            raise HostUnreachableError(f"{self}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def _call(self, procedure: Procedure, args: bytes, deadline: float) -> bytes:
        sock = self._connect(deadline)
        xid = next(self._xids)
        sock.settimeout(left(deadline))
        sock.sendall(oncrpc.frame(oncrpc.encode_call(xid, procedure, args, self._credential)))
        while True:
            match oncrpc.decode(self._receive(sock, deadline)):
                case Accepted(xid=answered, body=body) if answered == xid:
                    return body
                case Rejected(xid=answered, reason=reason) if answered == xid:
                    raise WireError(reason)
                case other:
                    self._heard_call(other)

    def _heard_call(self, message: Call | Accepted | Rejected) -> None:
        if not isinstance(message, Call):
            raise WireError("it answered a question that was not asked")
        if self._on_call is not None:
            self._on_call(message)

    def _receive(self, sock: socket.socket, deadline: float) -> bytes:
        while (record := self._deframer.next_record()) is None:
            sock.settimeout(left(deadline))
            data = sock.recv(_CHUNK_BYTES)
            if not data:
                raise ConnectionResetError("it closed the connection")
            if not self._heard and self._tls is None and tls_.is_alert(data):
                raise ConnectionResetError("it speaks TLS")
            self._heard = True
            self._deframer.feed(data)
        return record

    def _connect(self, deadline: float) -> socket.socket:
        if self._socket is not None:
            return self._socket
        self._heard = self._agreed = False
        self._deframer = oncrpc.Deframer()
        try:
            self._socket = connect(self._host, self._port, deadline)
        except TimeoutError as error:
            raise HostSilentError(self._silence()) from error
        for option in _KEPT:
            self._socket.setsockopt(*option)
        if self._tls is not None:
            self._socket = self._tls.context.wrap_socket(self._socket, do_handshake_on_connect=False)
            self._socket.settimeout(left(deadline))
            self._socket.do_handshake()
            self._agreed = True
        return self._socket

    def _silence(self) -> str:
        return f"{self} does not answer; is the host up, does {self._server} hang, is a firewall in between?"

    def close(self) -> None:
        """Idempotent."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self._where
