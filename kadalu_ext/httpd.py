"""/healthz and /metrics, for kubelet and Prometheus. Nothing else, and nothing that changes anything."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from kadalu_ext import __version__

_PATIENCE_S = 5.0
"""For a client that sends nothing."""

CLIENTS: Final = 32
"""At a time; a thread each. For a further one the oldest is hung up on, so that silent ones keep nobody out."""


class HttpServer:
    """Serves at `port` of all addresses from the moment it is made, in daemon threads.

    program: its name, which is told. unhealthy: why it should be restarted, '' if it should not. metrics: Prometheus'
    text.
    Raises: OSError if the port is taken.
    """

    def __init__(self, port: int, *, program: str, unhealthy: Callable[[], str], metrics: Callable[[], bytes]) -> None:
        lock = threading.Lock()
        served: dict[socket.socket, None] = {}

        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE_S
            server_version = f"{program}/{__version__}"
            sys_version = ""

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/healthz":
                        reason = unhealthy()
                        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
                        self._answer(status, "text/plain; charset=utf-8", (reason or "ok").encode() + b"\n")
                    case "/metrics":
                        self._answer(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", metrics())
                    case _:
                        self.send_error(HTTPStatus.NOT_FOUND, "there are only /healthz and /metrics")

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *_: object) -> None:
                """Who asked is not worth a line."""

        class Listener(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            daemon_threads = True
            request_queue_size = CLIENTS

            def process_request(self, request: Any, client_address: Any) -> None:
                with lock:
                    if len(served) >= CLIENTS:
                        oldest = next(iter(served))
                        del served[oldest]
                        with suppress(OSError):
                            oldest.shutdown(socket.SHUT_RDWR)
                    served[request] = None
                super().process_request(request, client_address)

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    with lock:
                        served.pop(request, None)

            def handle_error(self, *_: object) -> None:
                """A client that went away, or sent nothing in time."""

        self._listener = Listener(("", port), Handler)
        self.port = int(self._listener.server_address[1])
        threading.Thread(target=self._listener.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._listener.shutdown()
        self._listener.server_close()
