"""GET /metrics, and nothing else. One request at a time, each with a bound on how long it may take to be read."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Final

from kadalu_ext import __version__

PATIENCE_S: Final = 5.0
"""How long a client may be silent."""


class Server:
    """Listens from its making on. Raises: OSError if it cannot."""

    def __init__(self, address: tuple[str, int], text: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = PATIENCE_S
            server_version = f"kadalu-quotad/{__version__}"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(HTTPStatus.NOT_FOUND, "there is only /metrics")
                    return
                body = text().encode()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *_: object) -> None:
                """Who asked is not worth a line."""

        class Listener(TCPServer):
            address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                """A client that went away, or sent nothing in time."""

        self._listener = Listener(address, Handler)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="metrics-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it, after the request at hand."""
        self._ending = True
        self._listener.socket.shutdown(socket.SHUT_RDWR)  # wakes the accept that waits
        self._thread.join()
        self._listener.server_close()

    def _run(self) -> None:
        # not serve_forever, which wakes up twice a second
        while not self._ending:
            self._listener.handle_request()
