"""Kept connections to several hosts on the loopback: who is asked when, what is remembered, and what is pushed."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from kadalu_ext.errors import HostHungError, HostUnreachableError, NotFoundError
from kadalu_ext.gluster import hosts as hosts_
from kadalu_ext.gluster import messages
from kadalu_ext.gluster.glusterd import Glusterd
from kadalu_ext.gluster.hosts import Hosts
from kadalu_ext.gluster.oncrpc import Call
from tests.unit.gluster.fake_gluster import FakeHost, fake_host, silent
from tests.unit.gluster.golden import wire

PATIENT_S = 30.0
SHORT_S = 0.3
NAMES = ["127.0.0.2", "127.0.0.3"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def who(glusterd: Glusterd) -> str:
    glusterd.getspec("one")
    return glusterd.host


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    yield hosts
    hosts.close()


@pytest.fixture
def fakes() -> Iterator[list[FakeHost]]:
    with ExitStack() as stack:
        first = stack.enter_context(fake_host(NAMES[0]))
        yield [first, stack.enter_context(fake_host(NAMES[1], first.port))]


def ask(hosts: Hosts, fakes: list[FakeHost], timeout_s: float = PATIENT_S) -> str:
    return hosts.first_answer([fake.host for fake in fakes], who, timeout_s, port=fakes[0].port)


def test_many_callers_share_one_connection(hosts: Hosts, fakes: list[FakeHost]) -> None:
    callers = [threading.Thread(target=ask, args=(hosts, fakes[:1])) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (len(fakes[0].connections), len(fakes[0].calls)) == (1, 20)


def test_a_silent_host_is_remembered_and_the_others_are_asked_first(
    hosts: Hosts, fakes: list[FakeHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_, "BACK_OFF_S", hosts_.MAX_BACK_OFF_S)  # a second may be over before we look
    fakes[0].answers[messages.GETSPEC] = silent
    assert ask(hosts, fakes, SHORT_S) == NAMES[1]
    until(lambda: hosts.silent() == (NAMES[0],))
    asked = len(fakes[0].calls)
    assert [ask(hosts, fakes) for _ in range(5)] == [NAMES[1]] * 5
    assert len(fakes[0].calls) == asked


def test_a_silent_host_is_asked_nevertheless_if_all_others_fail(hosts: Hosts, fakes: list[FakeHost]) -> None:
    fakes[0].answers[messages.GETSPEC] = silent
    with pytest.raises(HostUnreachableError):
        ask(hosts, fakes[:1], SHORT_S)
    fakes[0].answers[messages.GETSPEC] = wire("getspec-one.reply")
    fakes[1].answers[messages.GETSPEC] = wire("getspec-missing.reply")
    assert ask(hosts, fakes) == NAMES[0]


def test_each_silence_is_remembered_for_longer(hosts: Hosts, fakes: list[FakeHost]) -> None:
    host = hosts._host(NAMES[0], fakes[0].port, None)
    lengths = []
    for _ in range(9):
        host._note_silence()
        lengths.append(round(host._silent_until - time.monotonic()))
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_host_that_hangs_holds_up_one_thread_and_a_bounded_queue(hosts: Hosts, fakes: list[FakeHost]) -> None:
    fakes[0].answers[messages.GETSPEC] = silent
    host = hosts._host(NAMES[0], fakes[0].port, None)
    before = threading.active_count()
    futures = [host.ask(who, SHORT_S) for _ in range(200)]
    assert threading.active_count() <= before + 4  # the host's, and the fake's for each connection
    assert sum(future.done() for future in futures) >= 200 - hosts_.QUESTIONS - 1
    for future in futures:
        with pytest.raises(HostHungError):
            future.result(PATIENT_S)


def test_a_question_that_somebody_else_answered_is_not_asked_any_more(hosts: Hosts, fakes: list[FakeHost]) -> None:
    release = threading.Event()

    def slow(_call: Call) -> bytes:
        release.wait(PATIENT_S)
        return wire("getspec-one.reply")

    fakes[0].answers[messages.GETSPEC] = slow
    assert [ask(hosts, fakes) for _ in range(3)] == [NAMES[1]] * 3
    release.set()
    fakes[0].answers[messages.GETSPEC] = wire("getspec-one.reply")
    assert hosts._host(NAMES[0], fakes[0].port, None).ask(who, PATIENT_S).result(PATIENT_S)
    assert len(fakes[0].calls) == 2


def test_a_host_that_was_restarted_is_asked_on_a_new_connection(hosts: Hosts, fakes: list[FakeHost]) -> None:
    ask(hosts, fakes[:1])
    fakes[0].drop_connections()
    assert ask(hosts, fakes[:1]) == NAMES[0]


def test_what_a_host_says_of_the_volume_is_no_fault_of_the_host(hosts: Hosts, fakes: list[FakeHost]) -> None:
    fakes[0].answers[messages.GETSPEC] = wire("getspec-missing.reply")
    with pytest.raises(NotFoundError):
        ask(hosts, fakes[:1])
    assert not hosts._host(NAMES[0], fakes[0].port, None).failed


def test_whatever_a_question_raises_comes_out_and_the_thread_goes_on(hosts: Hosts, fakes: list[FakeHost]) -> None:
    def fail(_: Glusterd) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hosts.first_answer(NAMES[:1], fail, port=fakes[0].port)
    assert ask(hosts, fakes[:1]) == NAMES[0]


def test_a_listener_is_told_at_once_by_each_host_and_after_each_interruption(
    hosts: Hosts, fakes: list[FakeHost]
) -> None:
    told: queue.Queue[str] = queue.Queue()
    end = hosts.listen(NAMES, told.put, port=fakes[0].port)
    assert {told.get(timeout=PATIENT_S) for _ in NAMES} == set(NAMES)  # connected: whatever was before was missed
    until(lambda: all(fake.connections for fake in fakes))
    fakes[1].push(wire("fetchspec.record"))
    assert told.get(timeout=PATIENT_S) == NAMES[1]
    fakes[0].drop_connections()
    assert told.get(timeout=PATIENT_S) == NAMES[0]
    end()
    fakes[0].push(wire("fetchspec.record"))
    ask(hosts, fakes[:1])
    assert told.empty()


def test_a_listener_waits_for_a_host_that_is_not_there_yet(hosts: Hosts) -> None:
    told: queue.Queue[str] = queue.Queue()
    with socket.create_server(("127.0.0.2", 0)) as unused:
        port = unused.getsockname()[1]
    hosts.listen(NAMES[:1], told.put, port=port)
    until(lambda: hosts._host(NAMES[0], port, None).silent)
    with fake_host(NAMES[0], port):
        assert told.get(timeout=PATIENT_S) == NAMES[0]


def test_a_host_that_nobody_asks_costs_neither_thread_nor_connection(fakes: list[FakeHost]) -> None:
    hosts = Hosts(idle_s=0.0)
    assert ask(hosts, fakes[:1]) == NAMES[0]
    host = hosts._host(NAMES[0], fakes[0].port, None)
    until(lambda: host._thread is None)
    assert not host._glusterd.connection.connected
    assert ask(hosts, fakes[:1]) == NAMES[0]
    hosts.close()


def test_closing_ends_what_is_under_way(fakes: list[FakeHost]) -> None:
    hosts = Hosts()
    fakes[0].answers[messages.GETSPEC] = silent
    future = hosts._host(NAMES[0], fakes[0].port, None).ask(who, PATIENT_S)
    until(lambda: len(fakes[0].calls) == 1)
    hosts.close()
    with pytest.raises(HostUnreachableError):
        future.result(PATIENT_S)
    with pytest.raises(RuntimeError, match="closed"):
        ask(hosts, fakes)
    hosts.close()


def test_a_name_with_several_addresses_is_had_at_the_one_that_answers(
    hosts: Hosts, fakes: list[FakeHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = fakes[0].port
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.9", port), backlog=0))
        for _ in range(2):  # its queue is full: whoever comes now is not answered
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        addresses = ["127.0.0.8", "127.0.0.9", NAMES[1]]  # refuses, drops packets, answers
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
        real = socket.getaddrinfo

        def resolve(host: str, *args: object, **options: object) -> object:
            return found if host == "many" and not options.get("flags") else real(host, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert hosts.first_answer(["many"], who, PATIENT_S, port=port) == "many"
    assert len(fakes[1].calls) == 1


def test_ipv6_is_spoken(hosts: Hosts) -> None:
    with fake_host("::1") as fake:
        assert ask(hosts, [fake]) == "::1"


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".example"])
def test_a_name_that_cannot_be_one_is_a_host_that_cannot_be_reached(hosts: Hosts, name: str) -> None:
    with pytest.raises(HostUnreachableError, match="the name does not resolve"):
        hosts.first_answer([name], who, PATIENT_S)


def test_a_listener_that_fails_does_not_leave_the_hosts_questions_without_an_answer(
    hosts: Hosts, fakes: list[FakeHost]
) -> None:
    told = []

    def fail(host: str) -> None:
        told.append(host)
        raise ZeroDivisionError

    hosts.listen(NAMES[:1], fail, port=fakes[0].port)
    until(lambda: bool(told))
    assert hosts._host(NAMES[0], fakes[0].port, None).ask(who, PATIENT_S).result(PATIENT_S) == NAMES[0]
