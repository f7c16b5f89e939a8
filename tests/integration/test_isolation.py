"""A storage that hangs or crashes holds no other up: the controller's clients on real bricks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from kadalu_ext.csi.clients import Clients, StorageClient
from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.csi.workers import WORKERS
from kadalu_ext.errors import KadaluExtError
from kadalu_ext.gluster import gfapi
from kadalu_ext.layout import pv_path
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName, QuotaRecord
from kadalu_ext.storage import Quota, Storage, StorageName
from kadalu_ext.units import MIB
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

WELL = Storage(name=StorageName("well"), hosts=("brick1",), volume="isolation-well", quota=Quota.NONE)
ILL = Storage(name=StorageName("ill"), hosts=("brick3",), volume="isolation-ill", quota=Quota.NONE)
CALLS = 50
PATIENT_S = 300.0


class Site:
    """Two storages that share nothing but the process that calls them."""

    def __init__(self, hosts: BrickHosts) -> None:
        self.hosts = hosts
        self.lost: list[tuple[str, str]] = []
        connector = GlusterConnector(lost=lambda storage, why: self.lost.append((storage.name, why)))
        self.clients = Clients(connector=connector, log=Logger("test"))
        self.well, self.ill = self.clients.of(WELL), self.clients.of(ILL)
        self.threads = ThreadPoolExecutor(CALLS)

    def create_many(self, client: StorageClient, what: str, count: int = CALLS) -> list[Future[None]]:
        names = [PvName(f"{what}-{n}") for n in range(count)]
        return [self.threads.submit(create, client, name) for name in names]


def create(client: StorageClient, name: PvName) -> None:
    client.create(QuotaRecord(path=pv_path(name), size_bytes=MIB), timeout_s=PATIENT_S)


def created(client: StorageClient, name: PvName) -> bool:
    """Asked again, as csi-provisioner does."""
    try:
        create(client, name)
    except KadaluExtError:
        return False
    return True


def processes(storage: Storage) -> list[int]:
    """The clients of a storage that this process has started."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if storage.volume in words_of(pid)]


def words_of(pid: int) -> list[str]:
    """The command line of a client; empty if it is another program, or gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return words if "kadalu_ext.gluster.clientmain" in words else []


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.fixture(scope="module")
def site(brick_hosts: BrickHosts) -> Iterator[Site]:
    brick_hosts.create_volume(WELL.volume, "brick", WELL.hosts)
    brick_hosts.create_volume(ILL.volume, "brick", ILL.hosts)
    site = Site(brick_hosts)
    try:
        yield site
        site.clients.close()
        site.threads.shutdown()
        wait_until("its processes to end", lambda: not processes(WELL) + processes(ILL), seconds=PATIENT_S)
    finally:
        for storage in (WELL, ILL):
            brick_hosts.delete_volume(storage.volume)


def test_a_client_that_crashes_takes_nothing_along(site: Site) -> None:
    for client in (site.well, site.ill):
        wait_until("its client to have started", partial(created, client, PvName("before")), seconds=PATIENT_S)
    (well,), (ill,) = processes(WELL), processes(ILL)
    os.kill(ill, signal.SIGSEGV)
    wait_until("the ill storage to serve again", lambda: created(site.ill, PvName("after")), seconds=PATIENT_S)
    assert (site.lost, processes(WELL)) == ([("ill", "it died of SIGSEGV")], [well])
    assert processes(ILL) != [ill]


def test_a_storage_whose_disk_hangs_holds_no_other_up_and_its_client_is_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its brick's process answers gluster's pings all the while: nothing else would end these calls within half an
    hour."""
    monkeypatch.setattr(gfapi, "HUNG_S", 2 * PATIENT_S)
    create(site.ill, PvName("frozen"))
    host, (hung,), before = site.hosts.host("brick3"), processes(ILL), len(site.lost)
    try:
        host.run(["fsfreeze", "--freeze", "/bricks"])
        waiting = site.create_many(site.ill, "ill")
        wait_until("its workers to hang", site.ill._workers.is_stuck, seconds=PATIENT_S)
        for n in range(20):
            create(site.well, PvName(f"well-{n}"))
        assert not any(future.done() for future in waiting)
        assert (processes(ILL), len(processes(WELL))) == ([hung], 1)
        assert threads_of(hung) < WORKERS + CALLS
        monkeypatch.setattr(gfapi, "HUNG_S", 1.0)
        monkeypatch.setattr(gfapi, "RESTART_S", 0.0)
        wait_until("its client to be ended", lambda: len(site.lost) > before, seconds=PATIENT_S)
        monkeypatch.undo()
        assert "has hung in it for" in site.lost[-1][1]
        assert not Path(f"/proc/{hung}").exists()
    finally:
        host.run(["fsfreeze", "--unfreeze", "/bricks"])
    ended = [future.exception(PATIENT_S) for future in waiting]
    assert 0 < len([error for error in ended if "its gluster client had to be ended" in str(error)]) < CALLS
    for n in range(CALLS):
        wait_until("its claims to be made", partial(created, site.ill, PvName(f"ill-{n}")), seconds=PATIENT_S)
    wait_until("one process to be left", lambda: len(processes(ILL)) == 1, seconds=PATIENT_S)


def test_a_storage_that_is_given_up_leaves_no_process_also_if_its_host_drops_packets(site: Site) -> None:
    wait_until("its client to have started", partial(created, site.ill, PvName("last")), seconds=PATIENT_S)
    host = site.hosts.host("brick3")
    host.cut()
    try:
        site.ill.rest().result(PATIENT_S)
        wait_until("its process to end", lambda: not processes(ILL), seconds=PATIENT_S)
        create(site.well, PvName("last"))
    finally:
        host.uncut()
        site.hosts.wait_joined()
    wait_until("it to serve again", lambda: created(site.ill, PvName("again")), seconds=PATIENT_S)
