"""One operator at a time, whatever the API server does."""

from __future__ import annotations

import threading

import pytest

from kadalu_ext.errors import ConflictError, KubernetesError
from kadalu_ext.operator import lease
from kadalu_ext.operator.lease import DURATION_S, RENEW_S, Election, LeaseState


class FakeLeases:
    """The API server's one Lease, with its check of versions."""

    def __init__(self) -> None:
        self.state = LeaseState(version=None, holder="", renewed="")
        self.writes = 0
        self.away = False
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def lease(self) -> LeaseState:
        if self.away:
            raise KubernetesError("away")
        return self.state

    def write_lease(self, seen: LeaseState, *, holder: str, duration_s: int) -> None:
        if self.away:
            raise KubernetesError("away")
        if seen.version != self.state.version:
            raise ConflictError("somebody was first")
        self.writes += 1
        self.state = LeaseState(version=str(self.writes), holder=holder, renewed=str(self.writes))


def two() -> tuple[FakeLeases, Election, Election]:
    leases = FakeLeases()
    return leases, Election(leases, "one", clock=leases.clock), Election(leases, "two", clock=leases.clock)


def test_the_second_does_nothing_until_the_first_has_been_silent_for_the_duration() -> None:
    leases, one, other = two()
    assert (one.step(), other.step(), other.holder) == (True, False, "one")
    leases.now += DURATION_S - 1
    assert one.step()
    assert not other.step()
    leases.now += DURATION_S - 1
    assert not other.step()
    leases.now += 2
    assert other.step()
    assert not one.step()


def test_of_two_that_try_at_the_same_moment_one_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    leases, one, other = two()
    stale = leases.lease()
    assert one.step()
    monkeypatch.setattr(leases, "lease", lambda: stale)
    assert not other.step()


def test_a_leader_that_cannot_renew_stops_before_another_may_begin() -> None:
    leases, one, _ = two()
    one.step()
    leases.away = True
    leases.now += RENEW_S - 1
    assert one.step()
    leases.now += 2
    assert not one.step()
    assert RENEW_S < DURATION_S


def test_whoever_stops_gives_it_back_and_the_next_one_has_it_at_once() -> None:
    leases, one, other = two()
    one.step()
    one.resign()
    assert other.step()
    one.resign()
    assert leases.state.holder == "two"


def test_an_api_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RETRY_S", 0.0)
    leases, one, _ = two()
    leases.away = True
    stop = threading.Event()
    away, step = iter([True, True, False]), one.step

    def tried() -> bool:
        leases.away = next(away)
        return step()

    monkeypatch.setattr(one, "step", tried)
    assert one.campaign(stop)
    stop.set()
    assert one.keep(stop)
    assert not Election(leases, "late").campaign(stop)


def test_a_call_that_hangs_does_not_make_the_lease_last(monkeypatch: pytest.MonkeyPatch) -> None:
    leases, one, _ = two()
    one.step()
    led = []

    def hangs() -> LeaseState:
        leases.now += RENEW_S + 1
        led.append(one.leading)
        raise KubernetesError("late")

    monkeypatch.setattr(leases, "lease", hangs)
    assert not one.step()
    assert led == [False]
