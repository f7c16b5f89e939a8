"""An API server that answers 429 or 503 over a real socket: it is asked once, and told apart from one that refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kubernetes.config import kube_config

from kadalu_ext.errors import BusyError, KubernetesError
from kadalu_ext.operator import main
from kadalu_ext.operator.kube import Kube
from kadalu_ext.operator.lease import LeaseState


class Server(ThreadingHTTPServer):
    """Gives every question the same answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.status, self.after = 429, "7"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        body = json.dumps({"kind": "Status", "message": "too many requests"}).encode()
        self.send_response(self.server.status)
        for name, value in {"Retry-After": self.server.after, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PATCH = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Not here."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def kube(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kube:
    """As the operator makes it, from a kubeconfig."""
    cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
    text = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }  # fmt: skip
    path = tmp_path / "config"
    path.write_text(json.dumps(text))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return Kube(main._api(), namespace="kadalu-ext")


@pytest.mark.parametrize(
    ("status", "after", "seconds"),
    [
        (429, "7", 7.0),
        (429, "", 1.0),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 1.0),
        (429, "9" * 9, 600.0),
        (503, "3", 3.0),
    ],
)
def test_one_question_is_asked_and_the_answer_says_when_the_next_may_be(
    kube: Kube, server: Server, status: int, after: str, seconds: float
) -> None:
    server.status, server.after = status, after
    asks = (
        lambda: kube.resource("default", "ext"),
        kube.pvs.listed,
        lambda: list(kube.storages(None).changes("1")),
        kube.lease,
        lambda: kube.write_lease(LeaseState(version=None, holder="", renewed=""), holder="x", duration_s=15),
    )
    for ask in asks:
        with pytest.raises(BusyError) as told:
            ask()
        assert told.value.retry_after_s == seconds
    assert len(server.asked) == len(asks)


@pytest.mark.parametrize(("status", "after"), [(503, ""), (403, "7")])
def test_another_refusal_says_nothing_of_when(kube: Kube, server: Server, status: int, after: str) -> None:
    server.status, server.after = status, after
    with pytest.raises(KubernetesError) as told:
        kube.resource("default", "ext")
    assert not isinstance(told.value, BusyError)
