"""Calls on a storage: bounded, one at a time for each PV, and no storage slows another."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from kadalu_ext.csi import session, workers
from kadalu_ext.csi.clients import Clients, StorageClient
from kadalu_ext.csi.ports import VolumeFacts
from kadalu_ext.errors import CapacityError, DeadlineError, HostUnreachableError, InProgressError, NotEnforcedError
from kadalu_ext.gluster.support import Reserve
from kadalu_ext.layout import pv_path, record_path
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName
from kadalu_ext.storage import Quota, ReclaimPolicy, Storage, StorageName
from kadalu_ext.units import GIB, MIB
from tests.unit.csi.memory import STORAGE, MemoryBricks, MemoryConnector, MemoryStore, pv, replica

PV = PvName("pvc-1")


class Fixture:
    """A client of a storage in memory, and threads to call it from."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.bricks = MemoryBricks(self.store)
        self.connector = MemoryConnector(self.store, self.bricks)
        self.clients = Clients(connector=self.connector, log=Logger("test"))
        self.client: StorageClient = self.clients.of(STORAGE)
        self.threads = ThreadPoolExecutor(64)

    def create(self, name: str = PV, size_bytes: int = 64 * MIB, *, timeout_s: float = 10.0) -> None:
        self.client.create(pv(name, size_bytes), timeout_s=timeout_s)

    def create_elsewhere(self, name: str = PV, *, timeout_s: float = 10.0) -> Future[None]:
        return self.threads.submit(self.create, name, timeout_s=timeout_s)


@pytest.fixture
def on() -> Iterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.store.hold.set()
    fixture.threads.shutdown()
    fixture.clients.close()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_retry_while_the_first_create_runs_is_aborted(on: Fixture) -> None:
    on.store.hold.clear()
    first = on.create_elsewhere()
    until(lambda: on.connector.opened)
    with pytest.raises(InProgressError, match="ext/pvc-1: an earlier call has been at work"):
        on.create()
    on.store.hold.set()
    first.result()
    on.create()


def test_an_overcommit_that_changes_is_in_effect_at_the_next_claim_on_the_same_connection(on: Fixture) -> None:
    on.store.total_bytes = 100 * MIB
    on.create("pvc-1", 64 * MIB)
    with pytest.raises(CapacityError):
        on.create("pvc-2", 64 * MIB)
    on.clients.of(replace(STORAGE, overcommit=1.5))
    on.create("pvc-2", 64 * MIB)
    on.clients.of(replace(STORAGE, overcommit=0.5))
    with pytest.raises(CapacityError, match=r"100 MiB, times 0\.5, of which 128 MiB are promised to 2 PVs; at most 0"):
        on.create("pvc-3", 8 * MIB)
    assert on.connector.opened == 1


def test_what_bricks_keep_free_is_promised_to_nobody(on: Fixture) -> None:
    on.store.total_bytes = 100 * MIB
    on.connector.reserve = Reserve(percent=10)
    with pytest.raises(CapacityError, match="92 MiB is more than the whole volume vol has: 90 MiB"):
        on.create("pvc-1", 92 * MIB)
    on.create("pvc-1", 90 * MIB)


def test_storages_that_share_a_volume_share_what_is_promised_each_with_its_own_overcommit(on: Fixture) -> None:
    on.store.total_bytes = 100 * MIB
    on.create("pvc-1", 64 * MIB)
    other = on.clients.of(replace(STORAGE, name=StorageName("other")))
    with pytest.raises(CapacityError, match="64 MiB are promised to 1 PVs"):
        other.create(pv("pvc-2", 64 * MIB), timeout_s=10)
    other = on.clients.of(replace(STORAGE, name=StorageName("other"), overcommit=2.0))
    other.create(pv("pvc-2", 64 * MIB), timeout_s=10)


def test_a_pv_is_taken_until_the_work_ends_and_not_until_its_caller_gives_up(on: Fixture) -> None:
    on.store.hold.clear()
    with pytest.raises(DeadlineError, match=r"storage ext, volume vol: no answer within 1\.0 s; the work goes on"):
        on.create(timeout_s=1)
    with pytest.raises(InProgressError):
        on.client.delete(PV, timeout_s=1)
    on.store.hold.set()
    until(lambda: record_path(PV) in on.store.nodes)
    on.create()


def test_a_deadline_names_the_bricks_that_are_silent(on: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_DIAGNOSIS_S", 0.05)
    on.client.open().result(60)
    on.bricks.down, on.bricks.hung = {"h2"}, {"h3"}
    on.store.hold.clear()
    with pytest.raises(DeadlineError, match=r"Down or silent: brick h2:\S+ refused; brick h3:\S+ does not"):
        on.create(timeout_s=1)


def test_what_is_not_begun_in_time_is_not_done_later(on: Fixture) -> None:
    on.store.hold.clear()
    busy = [on.threads.submit(on.client.delete, PvName(f"busy-{n}"), timeout_s=60) for n in range(workers.WORKERS)]
    until(lambda: len(on.client._workers._at_work) == workers.WORKERS)
    with pytest.raises(DeadlineError, match="not begun within"):
        on.create(timeout_s=0.1)
    on.store.hold.set()
    for future in busy:
        future.result()
    assert pv_path(PV) not in on.store.nodes
    on.create()


def test_a_dead_storage_does_not_slow_another(on: Fixture) -> None:
    on.store.hold.clear()
    dead = [on.create_elsewhere(f"dead-{n}", timeout_s=60) for n in range(40)]
    until(lambda: on.store.waiting)
    other = MemoryStore()
    connector = MemoryConnector(other, MemoryBricks(other))
    client = Clients(connector=connector, log=Logger("test")).of(replace(STORAGE))
    client.create(pv(PV, 64 * MIB), timeout_s=10)
    assert not any(future.done() for future in dead)
    client.close()


def test_what_asks_several_storages_does_not_wait_for_one_that_answers_nothing(
    on: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "STUCK_S", 0.01)
    assert on.client.ask(lambda volumes: volumes.names())(10) == frozenset()
    on.store.hold.clear()
    hanging = [on.create_elsewhere(f"pvc-{n}") for n in range(workers.STUCK)]
    until(on.client._workers.is_stuck)
    with pytest.raises(DeadlineError, match="storage ext, volume vol: not asked, since 8 calls have had no answer"):
        on.client.ask(lambda volumes: volumes.names())(3600)
    on.store.hold.set()
    for future in hanging:
        future.result()
    assert len(on.client.ask(lambda volumes: volumes.names())(10)) == workers.STUCK


def test_while_somebody_looks_for_silent_hosts_again_others_hear_what_was_known(
    on: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    on.connector.error = HostUnreachableError("h1:24007 does not answer")
    with pytest.raises(HostUnreachableError):
        on.create()
    looking, goes_on = threading.Event(), threading.Event()

    def facts(_: Storage) -> VolumeFacts:
        looking.set()
        goes_on.wait(10)
        raise HostUnreachableError("still")

    monkeypatch.setattr(on.connector, "facts", facts)
    monkeypatch.setattr(session, "_FACTS_S", 0.0)
    first = on.create_elsewhere()
    assert looking.wait(10)
    with pytest.raises(HostUnreachableError, match="h1:24007 does not answer"):
        on.client.ask(lambda volumes: volumes.names())(3600)
    goes_on.set()
    assert str(first.exception()) == "still"


def test_many_callers_of_a_storage_that_does_not_answer_share_the_time(on: Fixture) -> None:
    on.store.hold.clear()
    waits = [on.create_elsewhere(f"pvc-{n}", timeout_s=4) for n in range(2 * workers.WAITERS)]
    assert re.search(r" within 2\.\d s", str(waits[-1].exception()))
    on.store.hold.set()
    for future in waits:
        future.exception()


def test_those_who_wait_for_a_brick_leave_the_workers_to_others(on: Fixture) -> None:
    on.bricks.idle = {"h3"}
    waiting = [on.create_elsewhere(f"pvc-{n}", timeout_s=60) for n in range(12)]
    until(lambda: all(record_path(PvName(f"pvc-{n}")) in on.store.nodes for n in range(12)))
    on.client.delete(PvName("pvc-other"), timeout_s=10)
    assert not any(future.done() for future in waiting)
    on.bricks.idle = set()
    for future in waiting:
        future.result()


def test_what_is_promised_never_exceeds_the_volume_however_many_ask_at_once(on: Fixture) -> None:
    results = [on.create_elsewhere(f"pvc-{n}") for n in range(40)]
    granted = sum(future.exception() is None for future in results)
    assert granted == GIB // (64 * MIB)
    assert {type(future.exception()) for future in results} == {type(None), CapacityError}


def test_two_storages_on_one_volume_promise_it_once(on: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, reached, go_on = on.store.rename, threading.Event(), threading.Event()

    def slow(old: str, new: str) -> None:
        reached.set()
        go_on.wait()
        rename(old, new)

    monkeypatch.setattr(on.store, "rename", slow)
    first = on.create_elsewhere("pvc-0")
    assert reached.wait(10)  # promised, and not recorded yet
    try:
        with pytest.raises(CapacityError, match="64 MiB are promised to 1 PV"):
            on.clients.of(replace(STORAGE, name=StorageName("other"))).create(pv("pvc-1", GIB), timeout_s=10)
    finally:
        go_on.set()
    first.result()


def test_a_failure_is_told_to_all_who_wait_and_the_next_call_tries_anew(
    on: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    on.connector.error = HostUnreachableError("h1:24007: refused")
    waiting = [on.create_elsewhere(f"pvc-{n}") for n in range(4)]
    assert {type(future.exception()) for future in waiting} == {HostUnreachableError}
    assert on.connector.asked == 1
    monkeypatch.setattr(session, "_FACTS_S", 0.0)
    on.connector.error = None
    on.create()


def test_a_storage_with_other_hosts_is_connected_anew_and_keeps_its_promises(on: Fixture) -> None:
    on.create("pvc-0", 512 * MIB)
    on.clients.of(replace(STORAGE, hosts=("h9",)))
    on.create()
    assert on.connector.opened == 2
    with pytest.raises(CapacityError, match="576 MiB are promised to 2 PVs"):
        on.create("pvc-2", 512 * MIB)


def test_a_brick_that_was_replaced_must_enforce_too(on: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    on.create()
    monkeypatch.setattr(session, "_FACTS_S", 0.0)
    on.bricks.geometry = replace(replica(), bricks=(*replica().bricks[:2], replace(replica().bricks[2], host="h4")))
    on.bricks.idle = {"h4"}
    with pytest.raises(NotEnforcedError, match="h4"):
        on.create("pvc-2", timeout_s=1)
    assert on.connector.opened == 1


def test_what_an_earlier_process_left_in_the_trash_is_removed(on: Fixture) -> None:
    on.store.mkdir("trash", 0o700)
    on.store.mkdir(left := "trash/pvc-0.0123456789abcdef", 0o777)
    on.store.write(f"{left}/data")
    on.client.beat()
    until(lambda: left not in on.store.nodes)
    on.create()
    on.client.delete(PV, timeout_s=10)
    until(lambda: not any(path.startswith("trash/") for path in on.store.nodes))


@pytest.mark.parametrize(
    ("reclaim", "left"),
    [
        (ReclaimPolicy.DELETE, set()),
        (ReclaimPolicy.ARCHIVE, {"archived/pvc-1", "info/quota/.pvc-1"}),
        (ReclaimPolicy.RETAIN, {pv_path(PV), "info/quota/pvc-1"}),
    ],
)
def test_what_becomes_of_a_deleted_pv_is_as_the_storage_says(
    on: Fixture, reclaim: ReclaimPolicy, left: set[str]
) -> None:
    on.create()
    on.clients.of(replace(STORAGE, reclaim=reclaim))
    for _ in range(2):
        on.client.delete(PV, timeout_s=10)
    until(lambda: {path.partition(".")[0] or path for path in on.store.nodes if path.startswith("trash/")} == set())
    there = {path for path in on.store.nodes if "pvc-1" in path}
    assert len(there) == len(left)
    assert all(any(path.startswith(start) for start in left) for path in there)


@pytest.mark.parametrize("quota", [Quota.OPTIONAL, Quota.NONE])
def test_where_sizes_need_not_be_enforced_no_claim_waits_and_all_is_counted(on: Fixture, quota: Quota) -> None:
    on.bricks.idle = {"h1", "h2", "h3"}
    with pytest.raises(NotEnforcedError):
        on.create(timeout_s=1)
    on.clients.of(replace(STORAGE, quota=quota))
    on.create("pvc-2", 512 * MIB)
    assert on.client.grow(PvName("pvc-2"), 600 * MIB, timeout_s=10) == 600 * MIB
    with pytest.raises(CapacityError):
        on.create("pvc-3", 512 * MIB)
    assert on.connector.opened == 1
