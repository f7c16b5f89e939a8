"""One controller fills a copy, whoever else is there, and another goes on when that is silent."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from errno import EIO, ENOENT

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kadalu_ext.csi import leases
from kadalu_ext.csi.directories import Directories
from kadalu_ext.csi.leases import BEAT_S, HOLD_S, LEASE_S, Leases, mark
from kadalu_ext.csi.ports import CopyProgress
from kadalu_ext.csi.records import Records
from kadalu_ext.errors import InProgressError, VolumeIOError
from kadalu_ext.record import PvName
from tests.unit.csi.memory import MemoryStore
from tests.unit.csi.test_housekeeping import Paused

PV = PvName("pvc-2")


class Site:
    """Controllers whose clock a test turns."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.records = Records(self.store, Directories(self.store))
        self.now = 0.0

    def controller(self, identity: str) -> Leases:
        return Leases(self.records, mark(identity), clock=lambda: self.now)

    def holders(self) -> int:
        return len(self.records.names().fillers.get(PV, ()))


@pytest.fixture
def site() -> Site:
    return Site()


def takes(leases: Leases) -> bool:
    """As a call does that is over at once."""
    try:
        with leases.held(PV, CopyProgress()):
            return True
    except InProgressError:
        return False


def die(site: Site, identity: str) -> None:
    """A controller of that identity was killed at its copy."""
    site.records.begin_filling(PV, mark(identity), b"last")


def test_while_one_fills_it_no_other_does_and_afterwards_every_other_may(site: Site) -> None:
    a, b = site.controller("a"), site.controller("b")
    with a.held(PV, CopyProgress()):
        with pytest.raises(InProgressError, match="another controller fills it"), b.held(PV, CopyProgress()):
            pass
        assert site.holders() == 1
    assert site.holders() == 0
    assert takes(b) and takes(a)


def test_who_takes_the_place_of_one_that_ended_goes_on_at_once(site: Site) -> None:
    die(site, "pod-1")
    assert takes(site.controller("pod-1"))


def test_another_takes_over_when_it_was_silent_for_long_enough_and_not_before(site: Site) -> None:
    die(site, "a")
    b = site.controller("b")
    for now, taken in ((0.0, False), (LEASE_S - 1, False), (LEASE_S, True)):
        site.now = now
        assert takes(b) is taken


def test_two_that_died_refuse_nobody_for_ever(site: Site) -> None:
    die(site, "a")
    die(site, "b")
    c = site.controller("c")
    assert not takes(c)
    site.now = LEASE_S
    site.records.beat_filling(PV, mark("b"), b"alive")
    assert not takes(c)
    site.now = 2 * LEASE_S
    assert takes(c)


def test_who_beats_keeps_it_for_ever(site: Site) -> None:
    b = site.controller("b")
    for number in range(5):
        site.records.begin_filling(PV, mark("a"), b"%d" % number)
        assert not takes(b)
        site.now += LEASE_S


def test_the_one_that_was_taken_from_stops_at_its_next_beat(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.01)
    progress = CopyProgress()
    with site.controller("a").held(PV, progress):
        assert not progress.stopped
        site.records.end_filling(PV, mark("a"))
        site.records.begin_filling(PV, mark("b"), b"1")
        until_stopped(progress)
        assert site.records.names().fillers == {PV: {mark("b")}}
    assert site.records.names().fillers == {PV: {mark("b")}}


def test_one_that_cannot_renew_it_stops_before_another_may_take_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BEAT_S < HOLD_S < LEASE_S
    monkeypatch.setattr(leases, "BEAT_S", 0.01)
    monkeypatch.setattr(leases, "HOLD_S", 0.2)
    progress = CopyProgress()
    with site.controller("a").held(PV, progress):
        monkeypatch.setattr(site.records, "beat_filling", failing)
        until_stopped(progress)
        assert CopyProgress(progress).stopped


def failing(*_: object) -> None:
    raise VolumeIOError(EIO, "input/output error")


def until_stopped(progress: CopyProgress) -> None:
    deadline = time.monotonic() + 20
    while not progress.stopped:
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


@given(at=st.integers(0, 12), dead=st.booleans(), more=st.integers(1, 2))
def test_of_those_that_come_at_the_same_time_one_fills_it_at_most(at: int, dead: bool, more: int) -> None:
    """The first is stopped in the middle of taking it, and others take it, or try to, and keep it."""
    store = Paused()
    site = Site(store)
    first, others = site.controller("a"), [site.controller(f"b{n}") for n in range(more)]
    if dead:
        die(site, "gone")
        for each in (first, *others):
            assert not takes(each)
        site.now = LEASE_S
    holding = []
    with ExitStack() as stack:

        def take(each: Leases, name: str) -> None:
            with suppress(InProgressError, VolumeIOError):
                stack.enter_context(each.held(PV, CopyProgress()))
                holding.append(name)

        def then() -> None:
            for each in others:
                take(each, "other")

        store.at, store.then = store.calls + at, then
        take(first, "first")
        store.at = None
        assert len(holding) <= 1
    site.now += LEASE_S
    assert any(takes(each) for _ in range(3) for each in (first, *others))


def test_what_is_deleted_meanwhile_is_nobodys(site: Site) -> None:
    with pytest.raises(VolumeIOError) as raised:
        site.records.beat_filling(PV, mark("a"), b"1")
    assert raised.value.errno == ENOENT
