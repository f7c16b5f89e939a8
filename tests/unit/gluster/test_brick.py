"""The probe of all bricks, against three hosts on the loopback."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kadalu_ext.gluster import messages, xdr
from kadalu_ext.gluster.brick import Attribute, BrickAnswer, BrickProbe
from kadalu_ext.gluster.geometry import Brick, Geometry, VolumeKind
from kadalu_ext.gluster.oncrpc import Call
from kadalu_ext.record import RECORD_XATTR
from tests.unit.gluster.fake_gluster import Answer, FakeHost, fake_host, hang_up, port_reply, silent
from tests.unit.gluster.golden import wire

PATIENT_S = 60.0
"""For what must be answered, however busy the machine is."""
IMPATIENT_S = 0.5


@pytest.fixture
def hosts() -> Iterator[list[FakeHost]]:
    with ExitStack() as stack:
        first = stack.enter_context(fake_host("127.0.0.1"))
        others = [stack.enter_context(fake_host(f"127.0.0.{n}", first.port)) for n in (2, 3)]
        yield [first, *others]


def probe_of(hosts: list[FakeHost], timeout_s: float, given_up_s: float = 0.0) -> BrickProbe:
    bricks = tuple(Brick(name=f"rep-client-{n}", host=host.host, path=f"/b/{n}") for n, host in enumerate(hosts))
    shape = Geometry(kind=VolumeKind.REPLICATE, bricks=bricks)
    return BrickProbe(
        "rep",
        "00000000-0000-4000-8000-000000000001",
        shape,
        timeout_s,
        given_up_s=given_up_s,
        glusterd_port=hosts[0].port,
    )


@pytest.fixture
def probe(hosts: list[FakeHost]) -> Iterator[BrickProbe]:
    with probe_of(hosts, PATIENT_S) as probe:
        yield probe


@pytest.fixture
def impatient(hosts: list[FakeHost]) -> Iterator[BrickProbe]:
    with probe_of(hosts, IMPATIENT_S) as probe:
        yield probe


def ups(answers: list[BrickAnswer]) -> list[bool]:
    return [answer.up for answer in answers]


def test_every_brick_answers_in_the_volumes_order(probe: BrickProbe) -> None:
    answers = probe.stat_directory("subvol/aa/bb/pv")
    assert [answer.brick.name for answer in answers] == ["rep-client-0", "rep-client-1", "rep-client-2"]
    for answer in answers:
        assert answer.stat is not None
        assert (answer.up, answer.error) == (True, None)
        assert (answer.stat.total_bytes, answer.stat.block_bytes) == (256 << 20, 4096)


RECORD = Attribute(path="info/quota/pv", name=RECORD_XATTR)


def test_an_attribute_is_answered_with_the_directory(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[1].answers[messages.GETXATTR] = wire("getxattr-missing.reply")
    has, has_not, _ = probe.stat_directory("subvol/aa/bb/pv", RECORD)
    assert has.attribute == b'{"v":1,"path":"subvol/7c/15/kadalu-canary","size":4194304}'
    assert (has_not.attribute, has_not.error) == (None, None)
    assert has.stat == has_not.stat is not None


def test_a_brick_without_the_directory_may_have_the_attribute(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    found, missing = wire("lookup.reply"), wire("lookup-missing.reply")
    hosts[0].answers[messages.LOOKUP] = lambda call: missing if b"gone" in call.args else found
    answer = probe.stat_directory("gone", RECORD)[0]
    assert (answer.stat, answer.up, answer.attribute is None) == (None, True, False)
    assert "it has no directory gone (No such file or directory)" in str(answer.error)


GFID = messages.Gfid(bytes(range(16)))


def test_a_directory_whose_gfid_is_known_takes_one_question(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    probe.stat_directory("a")
    before = len(hosts[0].calls)
    assert all(answer.stat for answer in probe.stat_directory("subvol/aa/bb/pv", gfid=GFID))
    assert hosts[0].calls[before:] == [messages.STATFS]


def test_a_brick_without_that_gfid_has_no_such_directory(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[0].answers[messages.STATFS] = struct.pack(">ii", -1, errno.ESTALE)
    answer = probe.stat_directory("subvol/aa/bb/pv", gfid=GFID)[0]
    assert (answer.stat, answer.up) == (None, True)
    assert "it has no directory subvol/aa/bb/pv (Stale file handle)" in str(answer.error)


def test_connections_and_logins_are_kept(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    for _ in range(3):
        probe.stat_directory("a/b")
    calls = hosts[0].calls
    assert calls.count(messages.SETVOLUME) == calls.count(messages.PORTBYBRICK) == 1
    assert (calls.count(messages.LOOKUP), calls.count(messages.STATFS)) == (6, 3)


def test_a_connection_that_broke_is_made_anew_within_the_call(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    probe.stat_directory("a")
    hosts[1].drop_connections()
    assert all(answer.stat for answer in probe.stat_directory("a"))
    assert hosts[1].calls.count(messages.SETVOLUME) == 2


def test_a_brick_whose_process_does_not_run_is_down(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[2].answers[messages.PORTBYBRICK] = port_reply(0)
    answer = probe.stat_directory("a")[2]
    assert (answer.up, answer.stat) == (False, None)
    assert answer.error == (
        "brick 127.0.0.3:/b/2: its process does not run; on 127.0.0.3: gluster volume start rep force"
    )


def test_a_brick_whose_port_refuses_is_down(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[0].answers[messages.PORTBYBRICK] = port_reply(1)
    answer = probe.stat_directory("a")[0]
    assert not answer.up
    assert answer.error is not None
    assert "127.0.0.1:1 refused" in answer.error


def test_a_silent_brick_is_down_and_costs_its_timeout_once(impatient: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[1].answers[messages.STATFS] = silent
    started = time.monotonic()
    answer = impatient.stat_directory("a")[1]
    assert (answer.up, answer.stat) == (False, None)
    assert "does not answer" in str(answer.error)
    asked = hosts[1].calls.count(messages.STATFS)
    assert not impatient.stat_directory("a")[1].up
    assert hosts[1].calls.count(messages.STATFS) == asked
    assert time.monotonic() - started < PATIENT_S


def test_a_brick_that_hangs_is_up_until_clients_give_it_up(hosts: list[FakeHost]) -> None:
    hosts[1].answers[messages.STATFS] = silent
    with probe_of(hosts, IMPATIENT_S, given_up_s=4 * IMPATIENT_S) as probe:
        started = time.monotonic()
        answer = probe.stat_directory("a")[1]
        assert (answer.up, answer.stat) == (True, None)
        assert "does not answer" in str(answer.error)
        while probe.stat_directory("a")[1].up:
            assert time.monotonic() - started < PATIENT_S
        assert time.monotonic() - started > 4 * IMPATIENT_S


def test_a_host_that_takes_no_connection_is_down_at_once(hosts: list[FakeHost]) -> None:
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.4", hosts[0].port), backlog=0))
        for _ in range(2):  # its queue is full: whoever comes now is not answered
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        brick = Brick(name="rep-client-0", host="127.0.0.4", path="/b/0")
        shape = Geometry(kind=VolumeKind.BRICK, bricks=(brick,))
        with BrickProbe("rep", "id", shape, IMPATIENT_S, glusterd_port=hosts[0].port) as probe:
            assert ups(probe.stat_directory("a")) == [False]


@pytest.mark.parametrize("trouble", [hang_up, silent])
def test_nobody_knows_of_a_brick_whose_glusterd_is_in_trouble(
    impatient: BrickProbe, hosts: list[FakeHost], trouble: Answer
) -> None:
    hosts[1].answers[messages.PORTBYBRICK] = trouble
    answer = impatient.stat_directory("a")[1]
    assert (answer.up, answer.stat) == (True, None)
    assert "only glusterd knows whether the brick runs" in str(answer.error)


def test_a_glusterd_that_hangs_leaves_time_for_the_brick(impatient: BrickProbe, hosts: list[FakeHost]) -> None:
    impatient.stat_directory("a")
    hosts[0].answers[messages.PORTBYBRICK] = silent
    hosts[0].drop_connections()
    assert all(answer.stat for answer in impatient.stat_directory("a"))


def test_a_brick_that_was_silent_is_asked_again_later(impatient: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[1].answers[messages.STATFS] = silent
    assert not impatient.stat_directory("a")[1].up
    hosts[1].answers[messages.STATFS] = wire("statfs.reply")
    deadline = time.monotonic() + PATIENT_S
    while not impatient.stat_directory("a")[1].up:
        assert time.monotonic() < deadline


def test_a_brick_without_the_directory_is_up_and_says_so(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[0].answers[messages.LOOKUP] = wire("lookup-missing.reply")
    answer = probe.stat_directory("subvol/x")[0]
    assert (answer.up, answer.stat) == (True, None)
    assert answer.error == "brick 127.0.0.1:/b/0: it has no directory subvol/x (No such file or directory)"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("setvolume-auth.reply", "allow this host: gluster volume set rep auth.allow"),
        ("setvolume-other-volume.reply", "Volume-ID"),
    ],
)
def test_a_brick_that_refuses_the_login_is_up(probe: BrickProbe, hosts: list[FakeHost], reply: str, why: str) -> None:
    hosts[0].answers[messages.SETVOLUME] = wire(reply)
    answer = probe.stat_directory("a")[0]
    assert (answer.up, answer.stat) == (True, None)
    assert why in str(answer.error)


def test_a_brick_that_is_still_starting_is_down(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[0].answers[messages.SETVOLUME] = xdr.i32(-1) + xdr.i32(11) + xdr.opaque(b"")
    assert ups(probe.stat_directory("a")) == [False, True, True]


def test_a_brick_that_answers_nonsense_is_up_and_unproven(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[0].answers[messages.STATFS] = wire("statfs.reply")[:-4]
    answer = probe.stat_directory("a")[0]
    assert (answer.up, answer.stat) == (True, None)
    assert "bytes" in str(answer.error)


def test_a_brick_outlives_its_glusterd(probe: BrickProbe, hosts: list[FakeHost]) -> None:
    probe.stat_directory("a")
    hosts[0].answers[messages.PORTBYBRICK] = hang_up
    hosts[0].drop_connections()
    assert ups(probe.stat_directory("a")) == [True, True, True]


def test_many_callers_are_all_answered_while_one_brick_is_silent(impatient: BrickProbe, hosts: list[FakeHost]) -> None:
    hosts[1].answers[messages.LOOKUP] = silent
    answers: list[BrickAnswer] = []
    callers = [threading.Thread(target=lambda: answers.append(impatient.stat_directory("a")[1])) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [answer.stat for answer in answers] == [None] * 20
    # who was not even asked for, on a busy machine, says so, and not that it is down
    assert all(answer.up == ("too slow" in str(answer.error)) for answer in answers)


def test_a_question_that_waits_for_too_long_does_not_make_a_brick_pass_for_down(hosts: list[FakeHost]) -> None:
    asked, answer_now = threading.Event(), threading.Event()

    def slow(_call: Call) -> bytes:
        asked.set()
        answer_now.wait(PATIENT_S)
        return wire("lookup.reply")

    hosts[0].answers[messages.LOOKUP] = slow
    with probe_of(hosts[:1], PATIENT_S) as probe:
        probe._timeout_s = IMPATIENT_S  # of the callers only
        first = threading.Thread(target=probe.stat_directory, args=("a",))
        first.start()
        assert asked.wait(PATIENT_S)
        answer = probe.stat_directory("a")[0]
        answer_now.set()
        first.join()
    assert (answer.up, answer.stat) == (True, None)
    assert "too slow" in str(answer.error)


def test_no_thread_is_left_when_the_probe_is_closed(hosts: list[FakeHost]) -> None:
    probe = probe_of(hosts, PATIENT_S)
    probe.stat_directory("")
    probe.close()
    probe.close()
    deadline = time.monotonic() + PATIENT_S
    while any(thread.name.startswith("brick-rep-client") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
