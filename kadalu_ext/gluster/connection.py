"""One TCP connection to a glusterd or a brick: calls, one after the other, each within its deadline.

Deadlines are times of `time.monotonic()`.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from typing import Any, Final, Self

from kadalu_ext.errors import HostHungError, HostRefusedError, HostSilentError, HostUnreachableError, WireError
from kadalu_ext.gluster import oncrpc
from kadalu_ext.gluster import tls as tls_
from kadalu_ext.gluster.oncrpc import Accepted, Call, Credential, Procedure, Rejected
from kadalu_ext.gluster.tls import Tls

_CHUNK_BYTES: Final = 64 << 10
_Address = tuple[socket.AddressFamily, Any]


class Connection:
    """Connects at the first call. After any error it is closed, and connects anew at the next call.

    server: what is expected to answer there, for messages ("glusterd"). tls: None: in the clear. Not for several
    threads at once.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        server: str,
        credential: Credential = oncrpc.AUTH_NONE,
        tls: Tls | None = None,
    ) -> None:
        self._where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host = host
        self._port = port
        self._server = server
        self._credential = credential
        self._tls = tls
        self._heard = False
        self._agreed = False
        self._socket: socket.socket | None = None
        self._deframer = oncrpc.Deframer()
        self._xids = itertools.count(1)

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def call(self, procedure: Procedure, args: bytes, deadline: float) -> bytes:
        """The procedure's result.

        Raises: HostSilentError at the deadline if the host did not take the connection, HostHungError if it did;
        HostRefusedError if it refuses or closes it; TlsError if it closes it before it has said anything, or does not
        agree about TLS; HostUnreachableError if there is no way to it; WireError if what answers denies the call or
        does not speak gluster. All name host and port.
        """
        try:
            return self._call(procedure, args, deadline)
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
        if self._socket is None:
            self._heard = self._agreed = False
            self._deframer = oncrpc.Deframer()
            self._socket = self._connect(deadline)
            if self._tls is not None:
                self._socket = self._tls.context.wrap_socket(self._socket, do_handshake_on_connect=False)
                self._socket.settimeout(_left(deadline))
                self._socket.do_handshake()
                self._agreed = True
        xid = next(self._xids)
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(oncrpc.frame(oncrpc.encode_call(xid, procedure, args, self._credential)))
        while True:
            match oncrpc.decode(self._receive(self._socket, deadline)):
                case Accepted(xid=answered, body=body) if answered == xid:
                    return body
                case Rejected(xid=answered, reason=reason) if answered == xid:
                    raise WireError(reason)
                case Call():
                    continue  # the server pushes callbacks (FETCHSPEC) on the same connection
                case _:
                    raise WireError("it answered a question that was not asked")

    def _receive(self, sock: socket.socket, deadline: float) -> bytes:
        while (record := self._deframer.next_record()) is None:
            sock.settimeout(_left(deadline))
            data = sock.recv(_CHUNK_BYTES)
            if not data:
                raise ConnectionResetError("it closed the connection")
            if not self._heard and self._tls is None and tls_.is_alert(data):
                raise ConnectionResetError("it speaks TLS")
            self._heard = True
            self._deframer.feed(data)
        return record

    def _connect(self, deadline: float) -> socket.socket:
        addresses = _resolve(self._host, self._port, deadline)
        for left, (family, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            # What time is left is shared by the addresses that are: one that is silent must not use up all of it.
            timeout_s = _left(deadline) / left
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout_s)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                if left > 1:
                    continue
                if isinstance(error, TimeoutError):
                    raise HostSilentError(self._silence()) from error
                raise
            else:
                return sock
        raise HostUnreachableError(f"{self}: the host's name has no address")

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


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("deadline")
    return left


# --- names -----------------------------------------------------------------------------------------------------------
# getaddrinfo(3) takes no deadline, and with a dead name server it takes tens of seconds. So it runs in a thread of its
# own, at most one a name at any time, however often that name is asked for meanwhile.

_resolving: Final[dict[str, Future[list[_Address]]]] = {}
_resolving_lock: Final = threading.Lock()


def _resolve(host: str, port: int, deadline: float) -> list[_Address]:
    try:
        return _lookup(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    with _resolving_lock:
        future = _resolving.get(host)
        if future is None:
            future = _resolving[host] = Future()
            threading.Thread(target=_resolve_into, args=(host, port, future), name="resolve", daemon=True).start()
    try:
        addresses = future.result(timeout=_left(deadline))
    except socket.gaierror as error:
        raise HostUnreachableError(f"{host}: the name does not resolve ({error.strerror})") from error
    return [(family, (address[0], port, *address[2:])) for family, address in addresses]


def _resolve_into(host: str, port: int, future: Future[list[_Address]]) -> None:
    try:
        future.set_result(_lookup(host, port, 0))
    except (OSError, UnicodeError) as error:
        future.set_exception(
            error if isinstance(error, socket.gaierror) else socket.gaierror(socket.EAI_NONAME, str(error))
        )
    finally:
        with _resolving_lock:
            del _resolving[host]


def _lookup(host: str, port: int, flags: int) -> list[_Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _type, _protocol, _name, address in found]
