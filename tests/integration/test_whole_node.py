"""Whole volumes from the claim to the pod: the controller's pool, and mounter and node plugin as processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.csi.pools import PoolClient
from kadalu_ext.csi.wholevolumes import Wanted
from kadalu_ext.errors import CapacityError, InProgressError, UnavailableError
from kadalu_ext.log import Logger
from kadalu_ext.record import PvName
from kadalu_ext.storage import PoolVolume, Storage, StorageName, mount_name, to_json
from tests.integration.test_mounter import HOSTS, Node, Pv, clients_shown_as, running_node
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until

VOLUMES = ("whole-a", "whole-b")
POOL = Storage(
    name=StorageName("heketi"),
    hosts=(),
    volume="",
    pool=tuple(PoolVolume(volume=volume, hosts=HOSTS) for volume in VOLUMES),
)
LONG_S = 120.0


class WholePv(Pv):
    """One that is made by the controller's pool, and used as kubelet does."""

    def __init__(self, node: Node, pool: PoolClient, name: str) -> None:
        super().__init__(node, name, made(pool, name))
        self.name = PvName(name)

    def clients(self) -> set[int]:
        return clients_shown_as(self.volume_id)


def made(pool: PoolClient, name: str) -> Storage:
    found: list[Storage] = []

    def create() -> bool:
        try:
            found.append(pool.create(Wanted(name=PvName(name), required_bytes=1), timeout_s=LONG_S)[0])
        except (UnavailableError, InProgressError, CapacityError):  # one is being emptied, perhaps
            return False
        return True

    wait_until("the PV to be made", create, seconds=LONG_S)
    return found[0]


@pytest.fixture(scope="module")
def volumes(brick_hosts: BrickHosts) -> Iterator[BrickHosts]:
    for volume in VOLUMES:
        brick_hosts.create_volume(volume, "replica 3")
    yield brick_hosts
    for volume in VOLUMES:
        brick_hosts.delete_volume(volume)


@pytest.fixture(scope="module")
def pool(volumes: BrickHosts) -> Iterator[PoolClient]:
    made = PoolClient(POOL, connector=GlusterConnector(), log=Logger("test"))
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def node(volumes: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(tmp_path_factory.mktemp) as node:
        (node.run / "storages" / "heketi.json").write_text(to_json(POOL))
        yield node


def test_each_pod_has_a_volume_to_itself_from_claim_to_deletion(node: Node, pool: PoolClient) -> None:
    first, second = WholePv(node, pool, "pv-1"), WholePv(node, pool, "pv-2")
    assert {first.storage.volume, second.storage.volume} == set(VOLUMES)
    for pv in (first, second):
        pv.stage()
        (pv.publish("pod") / pv.name).write_text("x" * 4096)
    assert [sorted(os.listdir(pv.target("pod"))) for pv in (first, second)] == [["pv-1"], ["pv-2"]]
    assert (os.stat(first.target("pod")).st_ino, os.stat(first.target("pod")).st_mode & 0o7777) == (1, 0o777)
    assert first.stats("pod").usage[0].total == os.statvfs(first.target("pod")).f_blocks * 4096
    assert [len(pv.clients()) for pv in (first, second)] == [1, 1]

    kept, second.storage = second.storage, replace(second.storage, volume=first.storage.volume)
    with pytest.raises(grpc.RpcError, match="is mounted on this node from the volume"):
        second.stage()
    second.storage = kept

    before = first.clients()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until("the pod's path to work again", lambda: works(first), seconds=LONG_S)
    assert first.clients() and not first.clients() & before
    assert (second.target("pod") / "pv-2").read_text()

    for pv in (first, second):
        pv.unpublish("pod")
        pv.unstage()
        assert not os.path.ismount(pv.staging)
    wait_until("the clients to end", lambda: not first.clients() | second.clients(), seconds=LONG_S)
    # a client ends a moment before its mount point goes
    wait_until("their mount points to go", lambda: os.listdir(node.plugin / "mounts") == [], seconds=LONG_S)

    pool.delete(first.name, timeout_s=LONG_S)
    third = WholePv(node, pool, "pv-3")
    assert third.storage.volume == first.storage.volume
    third.stage()
    assert os.listdir(third.publish("pod")) == []
    third.unpublish("pod")
    third.unstage()
    wait_until("the client to end", lambda: not third.clients(), seconds=LONG_S)


def works(pv: WholePv) -> bool:
    try:
        return (pv.target("pod") / pv.name).read_text() != ""
    except OSError:
        return False


def test_a_clients_own_mount_is_nobodys_to_take_away(node: Node, pool: PoolClient) -> None:
    pv = WholePv(node, pool, "pv-2")
    pv.stage()
    main = node.plugin / "mounts" / mount_name(pv.storage)
    assert os.path.ismount(main)
    pv.staging = main
    with pytest.raises(grpc.RpcError, match="this driver's own"):
        pv.unstage()
    assert os.path.ismount(main)
