"""What programs serve over HTTP: whether they are well, and their metrics."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from kadalu_ext import httpd
from kadalu_ext.httpd import HttpServer
from tests.testbed.progress import wait_until


def test_health_and_metrics_are_served_and_nothing_else() -> None:
    reasons = [""]
    server = HttpServer(0, program="p", unhealthy=lambda: reasons[0], metrics=lambda: b"m 1\n")
    try:

        def get(path: str) -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        assert get("/healthz") == (200, b"ok\n")
        reasons[0] = "it hangs"
        assert get("/healthz") == (503, b"it hangs\n")
        assert get("/metrics") == (200, b"m 1\n")
        assert get("/")[0] == 404
    finally:
        server.close()


def test_clients_that_say_nothing_are_bounded_and_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "_PATIENCE_S", 60.0)
    before = threading.active_count()
    server = HttpServer(0, program="p", unhealthy=lambda: "", metrics=lambda: b"")
    with ExitStack() as stack:
        stack.callback(server.close)

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))

        silent = [connect() for _ in range(httpd.CLIENTS * 2)]
        assert [client.recv(1) for client in silent[: httpd.CLIENTS]] == [b""] * httpd.CLIENTS
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=30) as answer:
            assert answer.status == 200
        wait_until("the threads to end", lambda: threading.active_count() <= before + 1 + httpd.CLIENTS, seconds=30)
