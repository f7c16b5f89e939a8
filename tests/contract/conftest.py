"""The real side of the contracts: a volume on the three brick hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kadalu_ext.storage import Storage, StorageName
from tests.testbed.brickhosts import BrickHosts


@pytest.fixture(scope="module")
def gluster_volume(brick_hosts: BrickHosts) -> Iterator[Storage]:
    """A replica 3 volume of its own, which nobody enforces sizes on."""
    brick_hosts.create_volume("contract", "replica 3")
    hosts = tuple(host.name for host in brick_hosts.hosts)
    yield Storage(name=StorageName("contract"), hosts=hosts, volume="contract")
    brick_hosts.delete_volume("contract")
