"""glusterd's client, against a host on the loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from kadalu_ext.errors import (
    HostSilentError,
    HostUnreachableError,
    NotFoundError,
    VolumeReplacedError,
    VolumeStoppedError,
    WireError,
)
from kadalu_ext.gluster import messages, oncrpc, xdr
from kadalu_ext.gluster.client import Glusterd, first_answer
from tests.unit.gluster.fake_gluster import FakeHost, fake_host, silent
from tests.unit.gluster.golden import wire

SHORT_S = 0.3


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with fake_host() as host:
        yield host


@pytest.fixture
def glusterd(host: FakeHost) -> Iterator[Glusterd]:
    with Glusterd(host.host, port=host.port) as glusterd:
        yield glusterd


def test_one_connection_answers_everything(host: FakeHost, glusterd: Glusterd) -> None:
    assert glusterd.getspec("one").startswith("volume one-client-0\n")
    assert glusterd.started_volume_info("rep").name == "rep"
    assert glusterd.brick_port("/run/b/1/rep") == host.port
    assert len(host.connections) == 1


def test_callbacks_amid_replies_are_passed_over(host: FakeHost, glusterd: Glusterd) -> None:
    host.before = 3 * oncrpc.frame(wire("fetchspec.record"))
    assert glusterd.volume_info("rep").name == "rep"
    assert glusterd.volume_info("rep").name == "rep"


def test_a_volume_that_does_not_exist_is_named_with_the_host(host: FakeHost, glusterd: Glusterd) -> None:
    host.answers[messages.GETSPEC] = wire("getspec-missing.reply")
    host.answers[messages.GET_VOLUME] = wire("get-volume-missing.reply")
    for ask in (glusterd.getspec, glusterd.volume_info):
        with pytest.raises(NotFoundError, match=rf"127.0.0.1:{host.port}: there is no gluster volume nope"):
            ask("nope")


def test_a_volume_that_was_made_anew_under_its_old_name_is_not_taken_for_it(glusterd: Glusterd) -> None:
    known = glusterd.volume_info("rep").volume_id
    assert glusterd.started_volume_info("rep", volume_id=known).name == "rep"
    with pytest.raises(VolumeReplacedError, match=f"has the id {known}, .* deleted and made anew; see `kubectl desc"):
        glusterd.started_volume_info("rep", volume_id="0b4d2a3e-3a0f-4f0c-9a52-2b6f3c1d4e5f")


def test_a_stopped_volume_comes_with_its_remedy(host: FakeHost, glusterd: Glusterd) -> None:
    host.answers[messages.GET_VOLUME] = wire("get-volume-halt.reply")
    assert glusterd.volume_info("halt").status == "stopped"
    with pytest.raises(VolumeStoppedError, match="halt is stopped, not started; start it: gluster volume start halt"):
        glusterd.started_volume_info("halt")


def test_any_other_refusal_says_nothing_of_the_volume(host: FakeHost, glusterd: Glusterd) -> None:
    host.answers[messages.GETSPEC] = messages.getspec_refusal(95)
    with pytest.raises(HostUnreachableError, match=r"nothing of volume one \(errno 95\)"):
        glusterd.getspec("one")


def test_a_host_that_is_silent_costs_the_timeout_and_no_more(host: FakeHost) -> None:
    host.answers[messages.GETSPEC] = silent
    started = time.monotonic()
    with Glusterd(host.host, port=host.port, timeout_s=SHORT_S) as glusterd, pytest.raises(HostSilentError):
        glusterd.getspec("one")
    assert SHORT_S <= time.monotonic() - started < 10.0


def test_a_port_on_which_nobody_listens_is_told_apart_from_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Glusterd("127.0.0.1", port=port) as glusterd, pytest.raises(HostUnreachableError, match="refused") as caught:
        glusterd.getspec("one")
    assert not isinstance(caught.value, HostSilentError)


def test_a_connection_that_was_closed_is_made_anew(host: FakeHost, glusterd: Glusterd) -> None:
    glusterd.getspec("one")
    host.drop_connections()
    with pytest.raises(HostUnreachableError, match=r"closed the connection|Broken pipe|reset"):
        glusterd.getspec("one")
    assert glusterd.getspec("one")


@pytest.mark.parametrize(
    ("rubbish", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak gluster"),
        (oncrpc.frame(oncrpc.encode_reply(99, b"")), "not asked"),
        (oncrpc.frame(b""), "ends early"),
        (oncrpc.frame(oncrpc.encode_unavailable(1)), "does not serve this procedure"),
        (oncrpc.frame(wire("denied.record")), "server.allow-insecure"),
    ],
)
def test_what_does_not_speak_gluster_is_a_wire_error(
    host: FakeHost, glusterd: Glusterd, rubbish: bytes, why: str
) -> None:
    host.before = rubbish
    with pytest.raises(WireError, match=rf"127.0.0.1:{host.port}: .*{why}"):
        glusterd.getspec("one")


def test_a_reply_larger_than_the_limit_is_refused_before_it_is_read(host: FakeHost, glusterd: Glusterd) -> None:
    host.before = xdr.u32(oncrpc.MAX_RECORD_BYTES + 1)
    with pytest.raises(WireError, match="was announced"):
        glusterd.getspec("one")


def test_a_name_that_does_not_resolve_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with Glusterd("brick1.example") as glusterd, pytest.raises(HostUnreachableError, match="does not resolve"):
        glusterd.getspec("one")


# --- several hosts ---


def test_a_silent_first_host_delays_the_answer_by_a_moment() -> None:
    with fake_host("127.0.0.2") as hung, fake_host("127.0.0.3", hung.port) as live:
        hung.answers[messages.GETSPEC] = silent
        started = time.monotonic()
        answer = first_answer(
            ["127.0.0.2", "127.0.0.3"], lambda glusterd: (glusterd.host, glusterd.getspec("one")), 30.0, port=live.port
        )
        assert answer[0] == "127.0.0.3"
        assert time.monotonic() - started < 10.0


def test_that_a_volume_does_not_exist_is_an_answer() -> None:
    with fake_host() as host:
        host.answers[messages.GETSPEC] = wire("getspec-missing.reply")
        with pytest.raises(NotFoundError):
            first_answer(["127.0.0.9", host.host], lambda glusterd: glusterd.getspec("nope"), port=host.port)


def test_a_host_that_was_reinstalled_does_not_hide_the_volume_that_others_know() -> None:
    with fake_host("127.0.0.2") as blank, fake_host("127.0.0.3", blank.port) as live:
        blank.answers[messages.GETSPEC] = wire("getspec-missing.reply")
        hosts = ["127.0.0.2", "127.0.0.3"]
        assert first_answer(hosts, lambda glusterd: glusterd.getspec("one") and glusterd.host, port=live.port) == (
            "127.0.0.3"
        )


def test_when_no_host_answers_each_is_named_with_its_reason() -> None:
    with fake_host("127.0.0.2") as hung:
        hung.answers[messages.GETSPEC] = silent
        with pytest.raises(HostUnreachableError) as caught:
            first_answer(
                ["127.0.0.2", "127.0.0.3", "127.0.0.2"],
                lambda glusterd: glusterd.getspec("one"),
                SHORT_S,
                port=hung.port,
            )
    assert str(caught.value).count("127.0.0.2") == 1
    assert f"127.0.0.3:{hung.port} refused the connection" in str(caught.value)
    assert f"127.0.0.2:{hung.port} does not answer" in str(caught.value)


def test_of_one_host_its_own_error_is_raised() -> None:
    with fake_host() as host:
        host.answers[messages.GETSPEC] = silent
        with pytest.raises(HostSilentError):
            first_answer([host.host], lambda glusterd: glusterd.getspec("one"), SHORT_S, port=host.port)
