"""csi-sanity, the specification's own test, on the real driver, real bricks, real limits: every test that can be run.

What it leaves out by itself is what is not announced, and that is listed here to the last test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from kadalu_ext.storage import Storage, StorageName
from tests.integration.quotad_site import served
from tests.integration.sanity_site import SECRET, Driver
from tests.integration.test_mounter import HOSTS, running_node
from tests.testbed import suite
from tests.testbed.brickhosts import BrickHosts
from tests.testbed.sandbox import Sandbox

KINDS = {"sanity-rep": "replica 3", "sanity-dis": "disperse 2+1", "sanity-arb": "arbiter"}
REPLICA, DISPERSE, ARBITER = (Storage(name=StorageName(volume), hosts=HOSTS, volume=volume) for volume in KINDS)

SHARED = Storage(name=StorageName("sanity-rep-2"), hosts=HOSTS, volume=REPLICA.volume)
"""A second storage on that volume; not in the ConfigMap, since what two storages share is listed as of both."""

NEVER = Counter({
    # attachRequired is false: whoever reaches the bricks mounts, and nothing is attached to a node before that
    "ControllerPublishVolume not supported": 7,
    "Controller Publish, UnpublishVolume not supported": 2,
    "ControllerUnpublishVolume not supported": 1,
    # a PV has grown everywhere once its controller says so
    "NodeExpandVolume not supported": 4,
    # snapshots of several volumes at one moment: gluster has nothing for directories
    "GroupControllerService not supported": 6,
    # snapshots that are not to be had everywhere: they are where the volume is
    "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported": 1,
    # csi-sanity's own: it is switched off there
    "": 1,
})  # fmt: skip
"""Announced by no driver of this kind: why each cannot honestly be had."""


@pytest.fixture(scope="module")
def driver(sandbox: Sandbox, brick_hosts: BrickHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    suite.wait_built(sandbox.name, "sanity")
    with (
        served(brick_hosts, KINDS, tmp_path_factory.mktemp("clients")),
        running_node(tmp_path_factory.mktemp, REPLICA, DISPERSE, ARBITER) as node,
        Driver(node, [REPLICA, DISPERSE, ARBITER]).running() as driver,
    ):
        yield driver


def test_everything_announced_is_as_the_specification_has_it(driver: Driver) -> None:
    report = driver.report(REPLICA, driver.sanity(REPLICA))
    assert not report.failed, "\n\n".join(report.failed)
    assert report.skipped == NEVER
    assert SECRET not in driver.logs()


def test_three_at_once_on_different_volumes_do_not_disturb_each_other(driver: Driver) -> None:
    """But for two tests, which count all volumes and all snapshots that there are, and so must be alone."""
    counting = "check the presence of new|should return next token"
    started = [(each, driver.sanity(each, f"--ginkgo.skip={counting}")) for each in (DISPERSE, ARBITER, SHARED)]
    for storage, process in started:
        report = driver.report(storage, process)
        assert not report.failed, "\n\n".join(report.failed)
        assert len(report.passed) > 30
