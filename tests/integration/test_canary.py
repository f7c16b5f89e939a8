"""The canary on real bricks: the CSI controller's half changes it, the operator's half tells who does not follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kadalu_ext.csi import canaries
from kadalu_ext.csi.clients import Clients
from kadalu_ext.csi.connection import GlusterConnector
from kadalu_ext.csi.ports import VolumeFacts
from kadalu_ext.gluster.brick import BrickProbe
from kadalu_ext.log import Logger
from kadalu_ext.operator.canary import Canaries
from kadalu_ext.operator.enforcing import Enforcement
from kadalu_ext.operator.reasons import Reason
from kadalu_ext.record import CANARY
from kadalu_ext.storage import Storage, StorageName, to_json
from kadalu_ext.storages import Storages
from tests.integration.quotad_site import served
from tests.testbed import deb, progress
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.errors import Unmet

VOLUMES = {"canary-rep": "replica 3", "canary-arb": "arbiter", "canary-dis": "disperse 2+1"}
HALF = "canary-half"
"""A volume whose third brick is not on XFS."""
SECONDS = 300.0
NAMES = ("brick1", "brick2", "brick3")


@dataclass(kw_only=True)
class Watched:
    """A volume as the operator looks at it."""

    storage: Storage
    facts: VolumeFacts
    probe: BrickProbe
    operator: Canaries

    def look(self) -> Enforcement:
        return self.operator.look(
            self.storage.name,
            self.probe,
            self.facts.geometry,
            volume=self.storage.volume,
            volume_id=self.facts.volume_id,
        )

    def wait(self, reason: Reason, where: Callable[[Enforcement], bool] = lambda _: True) -> Enforcement:
        """The first look that gives this reason as it is wanted: on a busy machine another host, too, may be behind for
        one look, or one that is down not be known as that yet."""
        found: Enforcement | None = None

        def seen() -> Enforcement | None:
            nonlocal found
            found = self.look()
            return found if found.reason is reason and found.status is not None and where(found) else None

        try:
            return progress.wait_until(f"{self.storage.volume} to be {reason}", seen, seconds=SECONDS)
        except Unmet as unmet:
            raise Unmet(f"{unmet}: {found}") from None


def names(*hosts: str) -> Callable[[Enforcement], bool]:
    """Whether these hosts are named, and no other."""
    return lambda found: [name for name in NAMES if name in found.message] == list(hosts)


class Site:
    """Storages on the three hosts, whose canaries change every second."""

    def __init__(self, hosts: BrickHosts, directory: Path) -> None:
        self.hosts = hosts
        self.directory = directory
        self.connector = GlusterConnector()
        self.clients = Clients(connector=self.connector, log=Logger("test"))
        self.controller = canaries.Canaries(
            storages=Storages(str(directory)), clients=self.clients, log=Logger("test"), beat_s=1.0
        )

    def add(self, volume: str) -> Watched:
        storage = Storage(name=StorageName(volume), hosts=NAMES, volume=volume)
        (self.directory / f"{volume}.json").write_text(to_json(storage))
        facts = self.connector.facts(storage)
        probe = BrickProbe(volume, facts.volume_id, facts.geometry)
        return Watched(storage=storage, facts=facts, probe=probe, operator=Canaries())

    def remove(self, watched: Watched) -> None:
        (self.directory / f"{watched.storage.name}.json").unlink()
        watched.probe.close()
        progress.wait_until("the canary to be gone", lambda: not self.canaries_on(watched), seconds=SECONDS)

    def canaries_on(self, watched: Watched) -> str:
        """Whatever there is of it on any brick."""
        bricks = watched.facts.geometry.bricks
        argv = [
            "find",
            *(brick.path for brick in bricks),
            "-path",
            "*/.glusterfs",
            "-prune",
            "-o",
            "-name",
            f"*{CANARY}*",
        ]
        return "".join(self.hosts.host(b.host).run([*argv, "-print"], check=False).stdout for b in bricks)

    def quotad(self, host: str, verb: str) -> None:
        self.hosts.host(host).run(["systemctl", verb, "kadalu-quotad"])


@pytest.fixture(scope="module")
def site(brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(brick_hosts, VOLUMES, tmp_path_factory.mktemp("clients")):
        site = Site(brick_hosts, tmp_path_factory.mktemp("storages"))
        site.controller.start()
        yield site
        site.controller.stop()
        site.clients.close()


@pytest.fixture(scope="module")
def watched(site: Site) -> Iterator[dict[str, Watched]]:
    found = {volume: site.add(volume) for volume in VOLUMES}
    yield found
    for each in found.values():
        each.probe.close()


@pytest.mark.parametrize("volume", VOLUMES)
def test_bricks_of_every_kind_follow_the_canary(watched: dict[str, Watched], volume: str) -> None:
    found = watched[volume].wait(Reason.ENFORCED)
    arbiter = volume == "canary-arb"
    assert list(found.enforcing.values()) == [True, True, None if arbiter else True]


@pytest.mark.parametrize("host", ["brick1", "brick2"])
def test_the_host_whose_quotad_was_stopped_is_named_and_is_well_again_by_itself(
    site: Site, watched: dict[str, Watched], host: str
) -> None:
    site.quotad(host, "stop")
    try:
        for each in watched.values():
            found = each.wait(Reason.NOT_ENFORCED, names(host))
            assert f"On {host}: systemctl start kadalu-quotad" in found.message
    finally:
        site.quotad(host, "start")
    for each in watched.values():
        each.wait(Reason.ENFORCED)


def test_a_brick_that_was_killed_is_down_and_not_blamed(site: Site, watched: dict[str, Watched]) -> None:
    volume = watched["canary-rep"]
    site.hosts.host("brick3").run(["pkill", "-KILL", "-f", "glusterfsd.*canary-rep"])
    named = names("brick3")
    try:
        # at first its port may refuse: glusterd hears of it as late as we do
        volume.wait(Reason.ENFORCED_WHERE_UP, lambda found: named(found) and "process does not run" in found.message)
    finally:
        site.hosts.gluster("volume", "start", "canary-rep", "force")
    volume.wait(Reason.ENFORCED)


def test_a_brick_that_is_down_and_one_that_does_not_enforce_are_told_apart(
    site: Site, watched: dict[str, Watched]
) -> None:
    volume = watched["canary-rep"]
    site.hosts.host("brick3").run(["pkill", "-KILL", "-f", "glusterfsd.*canary-rep"])
    site.quotad("brick1", "stop")
    try:
        volume.wait(Reason.NOT_ENFORCED, lambda found: list(found.enforcing.values()) == [False, True, None])
    finally:
        site.quotad("brick1", "start")
        site.hosts.gluster("volume", "start", "canary-rep", "force")
    volume.wait(Reason.ENFORCED)


def test_a_brick_that_is_not_on_xfs_shows_its_whole_file_system(site: Site) -> None:
    bricks = [f"brick1:/bricks/{HALF}", f"brick2:/bricks/{HALF}", f"brick3:/srv/{HALF}"]
    site.hosts.gluster("volume", "create", HALF, "replica", "3", *bricks, "force")
    site.hosts.start_volume(HALF)
    for host in site.hosts.hosts:
        host.run(["tee", "-a", deb.LIST], input=f"{HALF}\n")
    half = site.add(HALF)
    try:
        found = half.wait(Reason.NO_LIMIT, names("brick3"))
        assert "XFS mounted with prjquota" in found.message
    finally:
        site.remove(half)
        site.hosts.delete_volume(HALF)


def test_a_canary_goes_with_its_storage(site: Site, watched: dict[str, Watched]) -> None:
    assert site.canaries_on(watched["canary-dis"])
    site.remove(watched["canary-dis"])
    assert watched["canary-rep"].wait(Reason.ENFORCED).status == "True"
