"""The volfile server as a glusterfs client sees it, over a real unix socket."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kadalu_ext.errors import InvalidInputError
from kadalu_ext.gluster import messages, oncrpc
from kadalu_ext.gluster.volserver import VolfileServer


class Client:
    """What a glusterfs client does on this socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self._deframer = oncrpc.Deframer()

    def ask(self, procedure: oncrpc.Procedure, args: bytes) -> oncrpc.Call | oncrpc.Accepted | oncrpc.Rejected:
        self.socket.sendall(oncrpc.frame(oncrpc.encode_call(9, procedure, args)))
        return self.hear()

    def hear(self) -> oncrpc.Call | oncrpc.Accepted | oncrpc.Rejected:
        while (record := self._deframer.next_record()) is None:
            data = self.socket.recv(4096)
            assert data, "the server hung up"
            self._deframer.feed(data)
        return oncrpc.decode(record)

    def getspec(self, volume: str = "vol") -> object:
        reply = self.ask(messages.GETSPEC, messages.getspec_request(volume))
        assert isinstance(reply, oncrpc.Accepted) and reply.xid == 9
        return messages.read_getspec_reply(reply.body)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VolfileServer]:
    server = VolfileServer(str(tmp_path / "ext.sock"))
    yield server
    server.close()


@pytest.fixture
def client(server: VolfileServer) -> Iterator[Client]:
    server.serve("vol", "volume one")
    client = Client(server.path)
    yield client
    client.socket.close()


def test_a_client_gets_the_volfile(client: Client) -> None:
    assert client.getspec() == "volume one"


def test_a_changed_volfile_is_pushed_and_an_unchanged_one_is_not(server: VolfileServer, client: Client) -> None:
    client.getspec()
    assert not server.serve("vol", "volume one")
    assert server.serve("vol", "volume two")
    pushed = client.hear()
    assert isinstance(pushed, oncrpc.Call) and pushed.procedure == messages.FETCHSPEC
    assert client.getspec() == "volume two"


def test_a_client_of_another_volume_is_not_told_to_switch_to_this_one(server: VolfileServer, client: Client) -> None:
    assert client.getspec("other") == messages.Refused(errno=errno.ENOENT)
    server.serve("other", "volume of the other")
    assert isinstance(client.hear(), oncrpc.Call)
    assert client.getspec("vol") == messages.Refused(errno=errno.ENOENT)
    assert client.getspec("other") == "volume of the other"


def test_a_call_that_is_not_served_is_answered_so(client: Client) -> None:
    assert isinstance(client.ask(messages.GET_VOLUME, b""), oncrpc.Rejected)
    assert client.getspec() == "volume one"


def test_bytes_that_are_not_rpc_end_that_connection_and_no_other(server: VolfileServer, client: Client) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(10)
        stranger.connect(server.path)
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(1) == b""
    assert client.getspec() == "volume one"


def test_only_root_may_connect(client: Client, server: VolfileServer) -> None:
    assert os.stat(server.path).st_mode & 0o777 == 0o600


def test_another_server_takes_over_the_path_of_one_that_was_killed(server: VolfileServer, client: Client) -> None:
    successor = VolfileServer(server.path)
    successor.serve("vol", "volume three")
    later = Client(server.path)
    assert later.getspec() == "volume three"
    later.socket.close()
    server.close()
    successor.close()


def test_a_path_too_long_for_a_socket_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="107 bytes"):
        VolfileServer(str(tmp_path / ("x" * 120)))


def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_socket_without_a_thread_is_none_and_the_next_call_makes_it(
    server: VolfileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        without_threads(full)
        with pytest.raises(RuntimeError):
            server.serve("vol", "volume one")
    with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
        early.connect(server.path)
    assert server.serve("vol", "volume one")
    later = Client(server.path)
    assert later.getspec() == "volume one"
    later.socket.close()


def test_a_client_without_a_thread_is_hung_up_on_and_the_next_is_served(
    server: VolfileServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        without_threads(full)
        refused = Client(server.path)
        assert refused.socket.recv(1) == b""
        refused.socket.close()
    later = Client(server.path)
    assert later.getspec() == "volume one"
    later.socket.close()
