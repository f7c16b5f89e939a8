"""The real side of the contracts: volumes of every kind on the three brick hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kadalu_ext.storage import Storage, StorageName
from tests.testbed.brickhosts import BrickHosts


@pytest.fixture(scope="module", params=["replica 3", "arbiter", "disperse 2+1", "brick"])
def gluster_volume(request: pytest.FixtureRequest, brick_hosts: BrickHosts) -> Iterator[Storage]:
    """A volume of its own, which nobody enforces sizes on."""
    hosts = [host.name for host in brick_hosts.hosts]
    brick_hosts.create_volume("contract", request.param, hosts if request.param != "brick" else hosts[:1])
    yield Storage(name=StorageName("contract"), hosts=tuple(hosts), volume="contract")
    brick_hosts.delete_volume("contract")
