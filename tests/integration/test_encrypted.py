"""A storage with TLS from end to end, without Kubernetes: a PV made by the controller's rooms, mounted and written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.csi.promises import Promises
from kadalu_ext.csi.volumes import Bricks, Volumes
from kadalu_ext.errors import TlsError, UnavailableError
from kadalu_ext.gluster import feed
from kadalu_ext.gluster.brick import BrickAnswer
from kadalu_ext.gluster.feed import Source, fetch
from kadalu_ext.gluster.gfapi import Volume
from kadalu_ext.layout import pv_path
from kadalu_ext.record import PvName
from kadalu_ext.storage import Encryption, Storage, StorageName, tls_key
from kadalu_ext.storages import Storages
from kadalu_ext.units import MIB
from tests.certificates import Authority
from tests.integration.encrypted import encrypted
from tests.integration.test_mounter import HOSTS, LONG_S, Node, Pv, Writer, clients, running_node
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.progress import wait_until
from tests.unit.csi.memory import pv

SAFE = Storage(name=StorageName("safe"), hosts=HOSTS, volume="mnt-tls", tls=Encryption.ALL)
PV = PvName("pv-tls")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A node, and the Kubernetes objects that its programs and a controller would have mounted."""

    node: Node
    authority: Authority
    storages: Storages
    tls: Path

    def give(self, name: str) -> None:
        """A certificate of that name, into the Secret."""
        for file, content in self.authority.issue(name).items():
            (self.tls / tls_key(SAFE.name, file)).write_bytes(content)


@pytest.fixture(scope="module")
def site(brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("ca")
    authority = Authority(directory)
    brick_hosts.create_volume(SAFE.volume, "replica 3")
    try:
        with (
            encrypted(brick_hosts, authority, directory, SAFE.volume),
            running_node(tmp_path_factory.mktemp, SAFE) as node,
        ):
            storages, tls = node.run / "storages", node.run / "tls"
            tls.mkdir()
            site = Site(node=node, authority=authority, storages=Storages(str(storages), str(tls)), tls=tls)
            site.give("client")
            yield site
    finally:
        brick_hosts.delete_volume(SAFE.volume)


def graphs(node: Node) -> int:
    return (node.plugin / f"log/{SAFE.name}.log").read_text().count("Final graph:")


def is_made(volumes: Volumes) -> bool:
    """Asked again, as csi-provisioner does: its client may still be starting."""
    try:
        volumes.make(pv(PV, 64 * MIB))
    except UnavailableError:
        return False
    return True


def shown(answers: Sequence[BrickAnswer]) -> bool:
    return [answer.error for answer in answers] == [None] * 3


def test_a_pv_of_an_encrypted_volume_is_made_seen_on_each_brick_mounted_and_written(site: Site) -> None:
    connector = GlusterConnector(site.storages.tls)
    facts = connector.facts(SAFE)
    store, probe = connector.store(SAFE), connector.probe(SAFE, facts)
    try:
        bricks = Bricks(geometry=facts.geometry, probe=probe)
        promises = Promises(volume=SAFE.volume)
        volumes = Volumes(volume=SAFE.volume, store=store, bricks=bricks, promises=promises)
        wait_until("the PV to be made", lambda: is_made(volumes), seconds=LONG_S)
        wait_until("each brick to show it", lambda: shown(probe.stat_directory(pv_path(PV))), seconds=LONG_S)
    finally:
        store.close()
        probe.close()
    published = Pv(site.node, PV, SAFE)
    published.stage()
    (published.publish("pod1") / "file").write_text("secret")
    for host in HOSTS:
        assert (published.on_volume / "file").read_text() == "secret", host
    published.unpublish("pod1")
    published.unstage()


def test_who_has_no_certificate_is_told_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "TIMEOUT_S", LONG_S)  # a host that is only slow is another trouble
    with pytest.raises(TlsError, match="glusterd may want TLS; name a Secret"):
        fetch(Source(volume=SAFE.volume, hosts=HOSTS[:1]))


def test_renewed_files_reach_a_client_under_a_running_writer(site: Site) -> None:
    with Writer(site.node.mount(SAFE)) as writer:
        before, pids = graphs(site.node), clients(SAFE)
        site.give("renewed")
        wait_until("the client to take them", lambda: graphs(site.node) > before, seconds=LONG_S)
        writer.wait_more()
    assert clients(SAFE) == pids


def test_a_brick_that_comes_back_on_another_port_is_joined(site: Site, brick_hosts: BrickHosts) -> None:
    third = brick_hosts.host("brick3")
    directory = site.node.mount(SAFE)
    with Volume.open(SAFE.volume, HOSTS, timeout_s=LONG_S, refresh_s=1, tls=lambda: site.storages.tls(SAFE)) as volume:
        volume.mkdir("before", 0o755)
        third.run(["pkill", "-KILL", "glusterfsd"])
        try:
            volume.mkdir("while", 0o755)
        finally:
            brick_hosts.gluster("volume", "start", SAFE.volume, "force")
            brick_hosts.wait_online(SAFE.volume)

        def reached() -> bool:
            now = time.monotonic_ns()
            volume.mkdir(f"gfapi-{now}", 0o755)
            (directory / f"fuse-{now}").mkdir()
            names = third.run(["ls", f"/bricks/{SAFE.volume}"]).stdout.split()
            return {"gfapi", "fuse"} <= {name.partition("-")[0] for name in names}

        wait_until("both clients to reach brick3", reached, seconds=LONG_S)


def test_a_storage_that_is_encrypted_later_is_followed(site: Site) -> None:
    site.node.release(SAFE)
    shutil.move(site.tls, site.tls.with_name("away"))
    try:
        with pytest.raises(Exception, match="the operator puts a storage's TLS files into the Secret"):
            site.node.mount(SAFE)
    finally:
        shutil.move(site.tls.with_name("away"), site.tls)
    assert site.node.mount(SAFE)
