"""From a host's name to a TCP connection: all its addresses, each step within a deadline (of `time.monotonic()`)."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from concurrent.futures import Future
from errno import EINPROGRESS
from typing import Any, Final

from kadalu_ext.errors import HostUnreachableError

STAGGER_S: Final = 0.2
"""For how long one address of a host is waited for before the next one is tried as well (RFC 8305 §5)."""

_Address = tuple[socket.AddressFamily, Any]


def connect(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one, each tried a moment after the one before it.

    Raises: TimeoutError at the deadline; HostUnreachableError if the name does not resolve; OSError of the address
    that failed last if all did.
    """
    return _first_of(_resolve(host, port, deadline), deadline)


def left(deadline: float) -> float:
    """Seconds until `deadline`. Raises: TimeoutError if there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("deadline")
    return seconds


def _first_of(addresses: list[_Address], deadline: float) -> socket.socket:
    waiting, failure = list(addresses), OSError("the host's name has no address")
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    family, address = waiting.pop(0)
                    sock = socket.socket(family, socket.SOCK_STREAM)
                    selector.register(sock, selectors.EVENT_WRITE)
                    sock.setblocking(False)
                    if (errno := sock.connect_ex(address)) not in (0, EINPROGRESS):
                        selector.unregister(sock)
                        sock.close()
                        failure = OSError(errno, os.strerror(errno))
                        continue
                for key, _ in selector.select(min(left(deadline), STAGGER_S) if waiting else left(deadline)):
                    sock = key.fileobj  # type: ignore[assignment]
                    selector.unregister(sock)
                    if not (errno := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        return sock
                    sock.close()
                    failure = OSError(errno, os.strerror(errno))
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    raise failure


# --- names -----------------------------------------------------------------------------------------------------------
# getaddrinfo(3) takes no deadline, and with a dead name server it takes tens of seconds. So it runs in a thread of its
# own, at most one a name at any time, however often that name is asked for meanwhile.

_resolving: Final[dict[str, Future[list[_Address]]]] = {}
_resolving_lock: Final = threading.Lock()


def _resolve(host: str, port: int, deadline: float) -> list[_Address]:
    try:
        return _lookup(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):  # UnicodeError: a label that is empty, or longer than 63 letters
        pass
    with _resolving_lock:
        future = _resolving.get(host)
        if future is None:
            future = _resolving[host] = Future()
            threading.Thread(target=_resolve_into, args=(host, port, future), name="resolve", daemon=True).start()
    try:
        addresses = future.result(timeout=left(deadline))
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
